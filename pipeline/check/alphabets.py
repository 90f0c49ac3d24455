"""What the texts of the corpus are put together from: words, alphabets, and signs that tokenizers stumble over."""

# ruff: noqa: E501, SIM905
# A row is an alphabet, and reads best as one text.

from __future__ import annotations

WORDS = {
    "English": "the harbour keeper wrote that it's raining and we'll wait they're late I'd've gone don't O'Neill rock'n'roll",
    "German": "Größe fährt übermäßig Straßenbahnhaltestelle über Änderung weiß Öl Donaudampfschifffahrt",
    "French": "l'été où j'ai reçu cœur naïve aujourd'hui qu'est-ce façade déjà œuvre",
    "Spanish": "¿mañana? ¡corazón! pingüino niño están allí acción",
    "Polish": "źdźbło żółć gęślą jaźń wąż łódź ćma",
    "Turkish": "İstanbul ışık çağrı güneş ağaç öğretmen şeker",
    "Czech": "příliš žluťoučký kůň úpěl ďábelské ódy řeřicha",
    "Vietnamese": "tiếng Việt được những người trường học đẹp",
    "Russian": "маяк стоял на краю косы и светил каждую ночь объявление ёлка",
    "Ukrainian": "їжак ґанок її п'ять з'їзд євро",
    "Greek": "ο φάρος στεκόταν στην άκρη ΘΆΛΑΣΣΑ ψυχή όμως",
    "Armenian": "փարոսը կանգնած էր ծովի մոտ",
    "Georgian": "შუქურა იდგა ზღვის პირას",
}
RIGHT_TO_LEFT = (
    "كانت المنارة تقف عند البحر وفي كل مساء يصعد الحارس המגדלור עמד בקצה הים והשומר עלה בכל ערב دریا کنار گلی"
)
INDIC = "दीपस्तंभ समुद्र किनारे खड़ा था हिन्दी ক্ষমতা বাংলা ভাষা தமிழ் மொழி కన్నడ తెలుగు മലയാളം ಕನ್ನಡ ਪੰਜਾਬੀ ગુજરાતી සිංහල"
SOUTH_EAST = "ประภาคารตั้งอยู่ริมทะเล ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ བོད་སྐད་ አማርኛ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ"
CHINESE = "灯塔立在海边每天晚上看守人点亮灯火写下天气一个语言模型读了很多句子學習繁體漢字龍"
KANA = "とうだいはうみのそばにたっていたカタカナコンピューターっゃょーヴ"
HANGUL = "등대는바닷가에서있었다한국어모델을읽는다"
DIGITS = "0123456789"
FOREIGN_DIGITS = (
    "٠١٢٣٤٥٦٧٨٩",
    "۰۱۲۳۴۵۶۷۸۹",
    "०१२३४५६७८९",
    "০১২৩৪৫৬৭৮৯",
    "๐๑๒๓๔๕๖๗๘๙",
    "０１２３４５６７８９",
    "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
    "①②③④⑤⑥⑦⑧⑨⑩",
    "ⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ",
    "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "½⅓¼⅔¾⅛〇一二三",
)
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
TYPOGRAPHY = "«»„“”‘’‚…–—•·§¶†‡°©®™€£¥¢¡¿、。「」『』（）！？：；《》"
SUFFIXES = (
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'T",
    "'RE",
    "'Ve",
    "'M",
    "'LL",
    "'D",
    "’s",
    "’ll",
    "'x",
    "''",
    "'",
)
BLANKS = (
    " ",
    "  ",
    "   ",
    "    ",
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    " \n",
    "\n ",
    " \t",
    "\t ",
)
SPACES = (
    "\u00a0",
    "\u1680",
    "\u2002",
    "\u2003",
    "\u2009",
    "\u200a",
    "\u202f",
    "\u205f",
    "\u3000",
    "\u200b",
    "\u200c",
    "\u2060",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\u0085",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1f",
    "\u180e",
)
EMOJI = "😀 😂 🥲 👍 👋 ❤ ❤️ ☀ ☀️ ⚠️ ✅ ✨ 🚀 🔥 🎉 🙏 💡 📦 🐍 🦙 🌍 ⭐ ➡️ ☕ ♻️ 🫠 🫶 🪿".split()
JOINED = "👨‍👩‍👧‍👦 👩‍💻 🧑‍🚀 👩🏽‍🔬 👋🏻 👋🏿 🏳️‍🌈 🏴‍☠️ 🇩🇪 🇯🇵 🇺🇦 🇧🇷 1️⃣ #️⃣ *️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️‍🔥 👁️‍🗨️ 🧑🏾‍🤝‍🧑🏼 ☝🏽 ☹︎ 😶‍🌫️".split()
MARKS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0323\u0327\u0328\u0338\u20dd\u05b0\u05b8\u05bc\u064b\u064e\u0651\u3099\u309a"
SYMBOLS = "∀∃∈∑∏∫√∞≤≥≠≈±×÷∂∇⊕⟨⟩αβγδλπΣΩℝℤℵ𝒜𝔅𝔸𝛼─│┌┐└┘├┤┼═║╔╗█▓░▲►◄●○◆★☆♠♣♪♫⌘⏎←↑→↓⇒⇔⠁⠿⣿ⒶⓑΩÅ™㎏㍿ﬁﬂﬃ"
PRIVATE = "\ue000\ue0b0\uf8ff\U000f0000\U0010fffd"
BIDI = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c"
BROKEN = (
    "\ufffd",
    "Ã©",
    "â€™",
    "Â ",
    "Ã¼",
    "ÿþ",
    "ï»¿",
    "À€",
    "í\xa0\x80",
    "\x00",
    "\x01",
    "\x07",
    "\x08",
    "\x1b[0m",
    "\x7f",
    "\x80",
    "\x9f",
    "\ufffe",
    "\uffff",
    "\ufdd0",
    "\U0001ffff",
    "\u00ad",
    "▁",
    "Ġ",
    "Ċ",
    "<0x0A>",
    "\\x00",
    "\\u0000",
    "%F0%9F%98",
)
CODE = (
    "def mean(values):\n    return sum(values) / len(values) if values else None\n",
    "for (int i = 0; i < n; ++i) {\n\ttotal += w[i] * x[i];\n}\n",
    'fn main() -> Result<(), Box<dyn Error>> {\n    println!("{:>8.3}", x);\n    Ok(())\n}',
    "const f = async ({a, ...rest}) => `${a ?? 'none'}`; // why?\n",
    "SELECT name, COUNT(*) AS n FROM files WHERE size >= 1e6 GROUP BY name;\n",
    "<div class=\"row\" id='x1'>&nbsp;<br/></div>\n",
    '{"name": "example", "version": "1.0.2", "tags": ["a", "b"], "n": -1.5e-10}',
    "if [[ -z \"$HOME\" ]]; then\n  echo 'no' >&2 && exit 1\nfi\n",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))\n\nint *p = &x;\n",
    "- name: run\n  with:\n    args: [\"--x=1\", '--y']\n",
    "\\begin{equation}\n  \\frac{\\partial f}{\\partial x_{i}} = 0\n\\end{equation}",
    "@property\ndef __init__(self, *args, **kwargs) -> None: ...\n",
    "x <<= 2; y ^= ~z; a != b && c || !d; p->q::r<T>(); i++ --j\n",
    "https://user:pw@example.org:8080/a/b.html?q=1&r=%20#frag",
    "C:\\Users\\me\\file_name-v2.tar.gz\r\n",
)
OPERATORS = (
    "==",
    "!=",
    "<=",
    ">=",
    "=>",
    "->",
    "::",
    "&&",
    "||",
    "<<",
    ">>",
    "+=",
    "**",
    "//",
    "/*",
    "*/",
    "...",
    "();",
    "{}",
    "[]",
    "</",
    "/>",
    "${",
    "?.",
    "??",
    "#!",
    "```",
    "---",
    "###",
)
