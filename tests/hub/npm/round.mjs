// One file through a Hub and back, by the client that Hugging Face makes for JavaScript.
// node round.mjs ENDPOINT TOKEN FILE xet|lfs, prints what it saw as JSON.
import { readFile } from "node:fs/promises";
import * as hub from "@huggingface/hub";

const [hubUrl, accessToken, file, how] = process.argv.slice(2);
const repo = { type: "model", name: `me/npm-${how}` };
const common = { repo, accessToken, hubUrl };
const content = await readFile(file);

const created = await hub.createRepo({ ...common, visibility: "private" });
const { commit } = await hub.commit({
  ...common,
  title: "from JavaScript",
  useXet: how === "xet",
  operations: [
    { operation: "addOrUpdate", path: "sub/m.gguf", content: new Blob([content]) },
    { operation: "addOrUpdate", path: "README.md", content: new Blob(["---\nlicense: mit\n---\n"]) },
  ],
});
const files = [];
for await (const entry of hub.listFiles({ ...common, recursive: true, expand: true })) files.push(entry);
const info = await hub.modelInfo({ ...common, name: repo.name, additionalFields: ["sha", "cardData"] });
const about = await hub.fileDownloadInfo({ ...common, path: "sub/m.gguf" });
const blob = await hub.downloadFile({ ...common, path: "sub/m.gguf", xet: how === "xet" });
const same = Buffer.from(await blob.arrayBuffer()).equals(content);
const part = await blob.slice(1000, 2000).arrayBuffer();
const samePart = Buffer.from(part).equals(content.subarray(1000, 2000));
await hub.deleteFile({ ...common, path: "sub/m.gguf" });
const left = [];
for await (const entry of hub.listFiles({ ...common, recursive: true })) left.push(entry.path);
const commits = [];
for await (const entry of hub.listCommits({ ...common })) commits.push(entry.title);
await hub.deleteRepo(common);
const exists = await hub.repoExists(common);
console.log(
  JSON.stringify({
    url: created.repoUrl,
    sha: commit.oid,
    info: { sha: info.sha, license: info.cardData?.license, private: info.private },
    files: files.map((f) => [f.path, f.type]),
    size: about.size,
    xet: Boolean(about.xet),
    same,
    samePart,
    left,
    commits,
    exists,
  }),
);
