"""A study's tables show names as they are, whatever they hold."""

import pytest

from siamese_diffusion.studies.table import _line, _plain, _tex


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("siamese x2", "siamese x2"),
        ("a|b", r"a\|b"),
        ("a_b_c", r"a\_b\_c"),
        ("**bold**", r"\*\*bold\*\*"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[x](http://y)", r"[x]\(http://y)"),
        ("a\nb  c", "a b c"),
        ("`code` & #1 ~x~ \\", r"\`code\` \& \#1 \~x\~ \\"),
        ("80.1 ± 2.0 [-0.1, 0.3]", "80.1 ± 2.0 [-0.1, 0.3]"),
    ],
)
def test_markdown(name: str, shown: str) -> None:
    assert _plain(name) == shown
    assert _line([name, "x"]) == f"| {shown} | x |"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("siamese x2", "siamese x2"),
        ("a_b & 5 % #1 $x$", r"a\_b \& 5 \% \#1 \$x\$"),
        ("{a}^b~c", r"\{a\}\textasciicircum{}b\textasciitilde{}c"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a<b>c|d", r"a\textless{}b\textgreater{}c\textbar{}d"),
        ("[1] *x", "{}[1] *x"),
        ("*x", "{}*x"),
        ("80.1 ± 2.0", r"80.1 $\pm$ 2.0"),
        ("-0.1 [-0.2, 0.3]", "$-$0.1 [$-$0.2, 0.3]"),
    ],
)
def test_latex(name: str, shown: str) -> None:
    assert _tex(name) == shown
