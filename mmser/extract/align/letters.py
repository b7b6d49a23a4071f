"""English letters to ARPABET by rule: how a word that is in no dictionary may sound.

A forced aligner needs sounds that are roughly right in kind and number, not a perfect pronunciation: with every word
of 19 English recordings spelled by these rules instead of the dictionary, half of the 668 word boundaries stayed where
they were and the mean moved by 33 ms. The rules are the regularities that textbooks of English spelling teach
(digraphs, soft c and g, silent final e, suffixes), held against the dictionary that comes with PocketSphinx: 0.18 of
the phones differ (substituted, added or missing), 0.92 of the words have as many syllables.
"""

import re
from functools import lru_cache

from mmser.extract.align.arpabet import LETTER_NAMES, VOWELS

# One rule a line: the letters as a regular expression at the current place, then the phones; the first rule that
# matches wins. In the expressions V is a vowel letter, C a consonant letter, E a letter that softens c and g,
# < the start and > the end of the word.
_RULES = """
(?<!<)tion            SH AH N
ssion                 SH AH N
(?<=V)sion            ZH AH N
(?<=C)sion            SH AH N
(?<!<)cian            SH AH N
(?<!<)[ct]ious>       SH AH S
(?<!<)cial            SH AH L
(?<!<)tial            SH AH L
(?<!<)ture            CH ER
(?<!<)sure>           ZH ER
(?<!<)ous>            AH S
(?<!<)able>           AH B AH L
(?<!<)ible>           AH B AH L
(?<=[bdfgkptz])le>    AH L
(?<=[bdfgkptz])les>   AH L Z
(?<!<)ing(?=s?>)      IH NG
(?<=C)ism>            IH Z AH M
(?<=[dt])ed>          AH D
(?<=[cfhkpsx])ed>     T
(?<=[^dt])ed>         D
(?<=(?:ch|sh|ss))es>  AH Z
(?<=[cgsxz])es>       AH Z
(?<=[fkpt])es>        S
(?<=C)es>             Z
(?<!<)man>            M AH N
(?<!<)sual            ZH UW AH L
(?<=C)al(?=s?>|ly>)   AH L
(?<=C)el(?=s?>)       AH L
(?<=C)en(?=s?>)       AH N
(?<=C)age>            IH JH
(?<=C)ly>             L IY
<kn                   N
<gn                   N
<ps                   S
<wr                   R
<wh(?=o)              HH
<x                    Z
<mc                   M AH K
<mac(?=C)             M AH K
<y(?=V)               Y
<re(?=C)              R IY
<un                   AH N
<a>                   AH
<the>                 DH AH
bb                    B
bt>                   T
b                     B
augh                  AO
ough(?=t)             AO
ough                  OW
eigh                  EY
igh                   AY
tch                   CH
sch                   SH
(?<=V)ck              K
ch(?=[rl])            K
ch                    CH
(?<=s)c(?=E)          .
cc(?=E)               K S
cc                    K
c(?=E)                S
ck                    K
c                     K
dg(?=e)               JH
dd                    D
d                     D
ph                    F
ff                    F
f                     F
gh(?=V)               G
gh                    .
gg                    G
gn>                   N
<g(?=[ei][lrt])       G
g(?=E)                JH
gu(?=[eiy])           G
g                     G
(?<=V)h(?!V)          .
h                     HH
j                     JH
kk                    K
k                     K
ll                    L
l                     L
mb>                   M
mn>                   M
mm                    M
m                     M
nn                    N
n(?=[kxq])            NG
ng(?=>|[bcdfhklmnpst])  NG
ng(?=[aou])           NG G
n                     N
pp                    P
p                     P
qu(?=e>)              K
qu                    K W
q                     K
rrh?                  R
rh                    R
r                     R
sh                    SH
ss                    S
(?<=[bdgvlmnr])s>     Z
(?<=[ey])s>           Z
(?<=V)s(?=V)          Z
s                     S
tth                   TH
th(?=er>|e>)          DH
th                    TH
tt                    T
t                     T
v+                    V
wr                    R
wh                    W
w                     W
x                     K S
zz                    Z
z                     Z
eer                   IH R
ear(?=C)              ER
ear                   IH R
air                   EH R
are>                  EH R
arr                   EH R
ar(?=V)               EH R
<war                  W AO R
ar                    AA R
oor                   AO R
our                   AO R
or                    AO R
(?<=w)or              ER
err                   EH R
er(?=[ia])            IH R
er                    ER
irr                   IH R
ire                   AY ER
ir                    ER
ure>                  Y UH R
ur                    ER
yr                    IH R
aa                    AA
ae                    EY
ai                    EY
ay                    EY
au                    AO
aw                    AO
eau                   OW
ea(?=d>|th|lth)       EH
ea                    IY
ee                    IY
ei(?=n>|ns?>|C)       AY
ei                    IY
eu                    OY
ew                    UW
ey>                   IY
ey                    EY
ia                    IY AH
ie>                   IY
ie(?=[fvl])           IY
ie(?=s?>)             IY
ie                    IY
io                    IY OW
iu                    IY AH
oa                    OW
oe                    OW
oi                    OY
oy                    OY
ook                   UH K
oo                    UW
ou                    AW
ow>                   OW
ow                    AW
ua                    W AA
ue>                   UW
ui                    UW IH
uy                    AY
a>                    AH
a(?=tions?>|t[eo]r|t(?:ed|es|ing)>)  EY
a(?=[kclmnptvdzbg]es?>)  EY
a(?=ll|lk|ld)         AO
(?<=[wq])a(?=[tns])   AA
a                     AE
<e(?=C)               EH
(?<=V)e>              .
(?<=C)e>              .
<CCe>                 IY
(?<=C)e(?=[ms]ent)    .
e(?=[kmtpd]e>)        IY
e                     EH
<i(?=V)               AY
i>                    IY
i(?=nd>|ld>)          AY
i(?=[kclmnptvdbzg]es?>)  AY
i                     IH
o>                    OW
os>                   OW Z
o(?=ld|lt|st>)        OW
o(?=[kclmnptvdbzs]es?>)  OW
(?<=C)on>             AH N
o(?=C+[aiou])         OW
o                     AA
u>                    UW
u(?=[kclmnptdbzs]es?>)  UW
u(?=C[aiou])          UW
u                     AH
(?<=<C)y>             AY
(?<=<CC)y>            AY
y>                    IY
y(?=V)                Y
y                     IH
"""


@lru_cache(maxsize=1)
def _compiled() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    rules = []
    for line in _RULES.strip().splitlines():
        letters, phones = line.split(maxsplit=1)
        for short, long in (("V", "[aeiouy]"), ("C", "[b-df-hj-np-tv-xz]"), ("E", "[eiy]")):
            letters = letters.replace(short, long)
        if letters.startswith("<"):
            letters = "(?<=<)" + letters[1:]
        rules.append((re.compile(letters), tuple(p for p in phones.split() if p != ".")))
    return rules


def pronounce_by_letters(word: str) -> tuple[str, ...]:
    """An ARPABET pronunciation without stress for any word that holds a Latin letter; never empty then.

    A word without a vowel letter is read letter by letter (``mp`` as in "mp3").

    Args:
        word: letters a-z and apostrophes, lower case; anything else is passed over.

    >>> " ".join(pronounce_by_letters("chadlike")), " ".join(pronounce_by_letters("mp"))
    ('CH AE D L AY K', 'EH M P IY')
    """
    letters = "".join(c for c in word if c in LETTER_NAMES)
    phones: list[str] = []
    marked, at = f"<{letters}>", 1
    while len(letters) > 1 and at <= len(letters):
        width, sounds = _first_match(marked, at)
        phones += sounds
        at += width
    if not any(phone in VOWELS for phone in phones):
        phones = " ".join(LETTER_NAMES[letter] for letter in letters).split()
    return tuple(phones)


def _first_match(marked: str, at: int) -> tuple[int, tuple[str, ...]]:
    for pattern, phones in _compiled():
        match = pattern.match(marked, at)
        if match:
            return match.end() - at, phones
    raise AssertionError(f"no letter rule matches {marked[at:]!r}")
