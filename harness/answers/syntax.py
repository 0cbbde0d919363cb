r"""Mathematical expressions: tokens become a small tree. No evaluation happens here, so nothing can blow up.

Reading rules where LaTeX leaves a choice: ``*``, ``/`` and juxtaposition bind alike, from the left; ``f(x)``, a letter
before a bracket that holds one symbol, one number or a list, is an application and any other bracket a factor;
``\sin 2 t`` takes the factors up to the next function, bracket or sign; ``1\frac{4}{5}`` is a mixed number.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from harness.answers.nodes import CONSTANTS, Node
from harness.answers.numbers import decimal_value, power_of_ten
from harness.answers.tokens import Token, Unreadable, matching, split

_ACCENTS: Final = {
    **dict.fromkeys(("\\hat", "\\widehat"), "hat "),
    **dict.fromkeys(("\\vec", "\\overrightarrow"), "vec "),
    **dict.fromkeys(("\\bar", "\\overline"), "bar "),
    **dict.fromkeys(("\\tilde", "\\widetilde"), "tilde "),
}
_DOTS: Final = {"\\dot": "'", "\\ddot": "''", "\\dddot": "'''"}
_INVERSES: Final = {name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
_INFIX: Final = ("\\over", "\\choose")  # of a whole group: {n \\over 2}
_GROUPS: Final = {"\\lfloor": "floor", "\\lceil": "ceil"}


def number(literal: str) -> Node:
    """A number token as a node; raises ``Unreadable`` beyond the bounds of ``numbers``."""
    mantissa, _, exponent = literal.lower().partition("e")
    value, scale = decimal_value(mantissa), power_of_ten(exponent or "0")
    if value is None or scale is None:
        raise Unreadable("number out of range")
    return Node("num", name=literal, value=value * scale)


def parse_expression(tokens: list[Token], upper: bool = True) -> Node:
    r"""The tree of ``tokens``; ``upper`` chooses the upper sign of every ``\pm`` and ``\mp``.

    Raises ``Unreadable`` for anything that is not one expression.
    """
    for sign in _INFIX:
        halves = split(tokens, {("cmd", sign)})
        if len(halves) == 2:
            parts = tuple(parse_expression(half, upper) for half in halves)
            return Node("div", parts) if sign == "\\over" else Node("call", parts, "binom")
    reader = _Reader(tokens, upper)
    node = reader.expression()
    if reader.at != len(reader.tokens):
        raise Unreadable(f"unexpected {reader.peek().text}")
    return node


class _Reader:
    def __init__(self, tokens: list[Token], upper: bool) -> None:
        self.tokens = list(tokens)
        self.at = 0
        self.upper = upper
        self.bars = 0  # absolute values open here, so that a bar closes before it opens

    def peek(self, ahead: int = 0) -> Token:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else Token("end", "end")

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def take(self, kind: str, *texts: str) -> Token | None:
        token = self.peek()
        if token.kind == kind and (not texts or token.text in texts):
            self.at += 1
            return token
        return None

    def expression(self) -> Node:
        node = self.term()
        while sign := self.take("op", "+", "-", "pm", "mp"):
            right = self.term()
            node = Node("add", (node, Node("neg", (right,)) if self.is_minus(sign.text) else right))
        return node

    def is_minus(self, sign: str) -> bool:
        return sign == "-" or (sign == "pm" and not self.upper) or (sign == "mp" and self.upper)

    def term(self) -> Node:
        node = self.signed()
        while True:
            if self.take("op", "*"):
                node = Node("mul", (node, self.signed()))
            elif self.take("op", "/"):
                node = Node("div", (node, self.signed()))
            elif self.starts_factor():
                node = self.juxtapose(node)
            else:
                return node

    def juxtapose(self, left: Node) -> Node:
        before = self.tokens[self.at - 1]
        if before.kind == "num" and self.peek().kind == "num":
            raise Unreadable("two numbers side by side")
        mixed = before.kind == "num" and self.peek() == Token("cmd", "\\frac")
        right = self.power()
        if (
            mixed
            and right.head == "div"
            and all(part.head == "num" and part.value.denominator == 1 for part in right.args)
        ):
            whole = left.args[0] if left.head == "neg" else left
            over, under = right.args
            if whole.head == "num" and whole.value.denominator == 1 and 0 < over.value < under.value:
                total = Node("add", (whole, right))
                return Node("neg", (total,)) if left.head == "neg" else total
        return Node("mul", (left, right))

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind == "op":
            return token.text == "|" and not self.bars
        return token.kind in ("num", "sym", "fn", "open", "cmd")

    def signed(self) -> Node:
        if sign := self.take("op", "+", "-", "pm", "mp"):
            node = self.signed()
            return Node("neg", (node,)) if self.is_minus(sign.text) else node
        return self.power()

    def power(self) -> Node:
        node = self.postfix(self.atom())
        while self.take("op", "^"):
            if self.take("sym", "\\circ") or self.is_group("\\circ"):
                node = Node("deg", (node,))
            else:
                node = self.postfix(Node("pow", (node, self.exponent())))
        return node

    def exponent(self) -> Node:
        node = self.script()
        if self.take("op", "^"):
            return Node("pow", (node, self.exponent()))
        return node

    def postfix(self, node: Node) -> Node:
        while sign := self.take("op", "!", "%"):
            if sign.text == "!" and self.take("op", "!"):
                raise Unreadable("double factorial")
            node = Node("factorial" if sign.text == "!" else "percent", (node,))
        return node

    def is_group(self, *texts: str) -> bool:
        """Takes the group ``{texts}`` if it comes next."""
        wanted = ("{", *texts, "}")
        if tuple(self.peek(offset).text for offset in range(len(wanted))) == wanted:
            self.at += len(wanted)
            return True
        return False

    def script(self) -> Node:
        """What a ``^`` or a ``_`` applies to: a group, or a sign and one atom (``10^-5`` is as good as ``10^{-5}``)."""
        if self.peek().kind == "open":
            return self.group()
        if self.take("op", "-"):
            return Node("neg", (self.script(),))
        token = self.peek()
        if token.kind == "num":
            return number(self.next().text)
        if token.kind == "sym":
            self.at += 1
            return Node("sym", name=token.text)
        return self.atom()

    def group(self) -> Node:
        """A bracketed expression; floor and ceiling brackets are kept as functions."""
        if self.peek().text == "{":
            return self.part(self.argument())
        opener = self.next()
        if opener.text in ("\\{", "\\langle"):
            raise Unreadable("a set inside an expression")
        bars, self.bars = self.bars, 0
        node = self.expression()
        self.bars = bars
        closer = self.next()
        if closer.kind != "close" or (opener.text, closer.text) in (("(", "]"), ("[", ")")):
            raise Unreadable(f"unexpected {closer.text}")
        return Node("call", (node,), _GROUPS[opener.text]) if opener.text in _GROUPS else node

    def atom(self) -> Node:
        token = self.peek()
        if token.kind == "num":
            return self.numeral()
        if token.kind == "sym":
            return self.derivative_with_slash() or self.symbol()
        if token.kind == "fn":
            return self.function()
        if token.kind == "open":
            return self.group()
        if token.kind == "op" and token.text == "|":
            self.at += 1
            self.bars += 1
            node = self.expression()
            self.bars -= 1
            if not self.take("op", "|"):
                raise Unreadable("no closing |")
            return Node("call", (node,), "abs")
        if token.kind == "cmd":
            return self.command()
        raise Unreadable(f"unexpected {token.text}")

    def numeral(self) -> Node:
        node = number(self.next().text)
        places = node.name.partition(".")[2]
        bar = [self.peek(ahead) for ahead in range(4)]
        if "." in node.name and bar[0] == Token("cmd", "\\overline") and bar[2].text.isdigit() and bar[3].text == "}":
            digits = bar[2].text
            self.at += 4
            tail = Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(places))
            return Node("num", name=node.name + digits, value=node.value + tail)
        return node

    def command(self) -> Node:
        token = self.peek()
        if token.text in _ACCENTS or token.text in _DOTS or token.text == "\\angle":
            return self.symbol()
        self.at += 1
        if token.text == "\\frac":
            over, under = self.argument(), self.argument()
            return _derivative(over, under) or Node("div", (self.part(over), self.part(under)))
        if token.text == "\\binom":
            return Node("call", (self.part(self.argument()), self.part(self.argument())), "binom")
        raise Unreadable(f"command {token.text}")

    def part(self, tokens: list[Token]) -> Node:
        return parse_expression(tokens, self.upper)

    def argument(self) -> list[Token]:
        """One TeX argument: a group's tokens, or one token, of which a number gives its first digit."""
        token = self.peek()
        if token.text == "{":
            end = matching(self.tokens, self.at)
            inner = self.tokens[self.at + 1 : end]
            self.at = end + 1
            return inner
        if token.kind == "num":
            rest = token.text[1:]
            if rest:
                self.tokens[self.at] = Token("num", rest)
            else:
                self.at += 1
            return [Token("num", token.text[0])]
        if token.kind not in ("sym", "fn"):
            raise Unreadable(f"unexpected {token.text}")
        self.at += 1
        return [token]

    def symbol(self) -> Node:
        """A name with accents, subscripts and primes, and its arguments if it is applied."""
        name = self.base_name()
        while True:
            if self.take("op", "_"):
                name += "_" + "".join(token.text.strip() for token in self.argument_or_number())
            elif self.take("op", "'") or self.primes():
                name += "'"
            else:
                break
        if self.peek().text == "(" and name not in CONSTANTS:
            end = matching(self.tokens, self.at)
            inner = self.tokens[self.at + 1 : end]
            parts = split(inner, {("sep", ",")})
            if len(parts) > 1 or (len(inner) == 1 and inner[0].kind in ("sym", "num")):
                self.at = end + 1
                return Node("app", tuple(self.part(part) for part in parts), name)
        return Node("sym", name=name)

    def base_name(self) -> str:
        token = self.next()
        if token.text == "\\angle":
            name = "angle "
            while self.peek().kind == "sym":
                name += self.next().text
            return name
        if token.kind == "cmd":
            inner = self.argument()
            name = _Reader(inner, self.upper).plain_name()
            return name + _DOTS[token.text] if token.text in _DOTS else _ACCENTS[token.text] + name
        return token.text

    def plain_name(self) -> str:
        node = self.symbol() if self.tokens and self.tokens[0].kind in ("sym", "cmd") else None
        if node is None or node.head != "sym" or self.at != len(self.tokens):
            return "".join(token.text for token in self.tokens)
        return node.name

    def argument_or_number(self) -> list[Token]:
        return [self.next()] if self.peek().kind in ("num", "text") else self.argument()

    def primes(self) -> bool:
        if self.peek() != Token("op", "^"):
            return False
        if self.peek(1) == Token("op", "'"):
            self.at += 2
            return True
        if self.peek(1).text == "{" and self.peek(2) == Token("op", "'"):
            end = matching(self.tokens, self.at + 1)
            if all(token.text == "'" for token in self.tokens[self.at + 2 : end]):
                # the further primes of the group stay as tokens, to be counted one by one
                self.tokens[self.at : end + 1] = self.tokens[self.at + 2 : end]
                self.at += 1
                return True
        return False

    def derivative_with_slash(self) -> Node | None:
        """``dM/dt`` written on one line."""
        line = self.tokens[self.at : self.at + 5]
        shape = [token.kind for token in line] == ["sym", "sym", "op", "sym", "sym"]
        if not shape or (line[0].text, line[2].text, line[3].text) != ("d", "/", "d"):
            return None
        self.at += 5
        return Node("sym", name=line[1].text + "'")

    def function(self) -> Node:
        name = self.next().text
        power: Node | None = None
        args: tuple[Node, ...] = ()
        if name == "sqrt" and self.peek().text == "[":
            args = (self.group(),)
        while self.peek().text in ("^", "_") and self.peek().kind == "op":
            if self.next().text == "_":
                args = (self.script(),)
            else:
                power = self.script()
        node = Node("call", (self.function_argument(name), *args), name)
        if power is None:
            return node
        if power == Node("neg", (Node("num", name="1", value=Fraction(1)),)) and name in _INVERSES:
            return Node("call", node.args, _INVERSES[name])
        return Node("pow", (node, power))

    def function_argument(self, name: str) -> Node:
        token = self.peek()
        if token.kind == "open" or (token.kind == "op" and token.text == "|" and not self.bars):
            return self.atom()
        if name == "sqrt":
            return self.script()
        if self.take("op", "-"):
            return Node("neg", (self.function_argument(name),))
        node = self.power()
        while self.peek().kind in ("num", "sym", "cmd") and not self.is_exponential():
            node = self.juxtapose(node)
        return node

    def is_exponential(self) -> bool:
        """``\\sin \\omega t e^{-t}``: the exponential is the next factor, not a part of the angle."""
        return self.peek() == Token("sym", "e") and self.peek(1) == Token("op", "^")


def _derivative(over: list[Token], under: list[Token]) -> Node | None:
    r"""``\frac{d^{2} x}{d t^{2}}`` as the symbol x with two primes, or None for an ordinary fraction."""
    signs = (Token("sym", "d"), Token("cmd", "\\partial"))
    if not (over and under and over[0] in signs and under[0] == over[0] and len(under) > 1 and under[1].kind == "sym"):
        return None
    order, rest = 1, over[1:]
    if rest[:1] == [Token("op", "^")]:
        digits = [token.text for token in rest[1:4] if token.kind == "num"]
        rest = rest[4:] if rest[1:2] == [Token("open", "{")] else rest[2:]
        if not digits or not 1 <= len(digits[0]) <= 1:
            return None
        order = int(digits[0])
    if not rest:
        return None
    reader = _Reader(rest, True)
    node = reader.symbol() if rest[0].kind in ("sym", "cmd") else None
    if node is None or reader.at != len(reader.tokens):
        return None
    return Node(node.head, node.args, node.name + "'" * order)
