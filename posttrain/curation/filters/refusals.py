"""Answers that decline, told by how they begin, in English and Chinese."""

from __future__ import annotations

import re

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken

_SORRY = (
    r"(?:(?:i'?m|i am|we'?re|we are) (?:(?:very|so|really|truly|deeply) )?(?:sorry|afraid)|(?:my )?apologies|sorry|"
    r"i apologi[sz]e|unfortunately|regrettably)(?: for (?:the|any) \w+)?"
)
_AI = (
    r"as an? (?:\w+ )?(?:ai|artificial intelligence|language model|large language model|virtual assistant)"
    r"(?: (?:language )?(?:model|assistant))?"
)
_CANNOT = (
    r"(?:can'?t|cannot|can not|could not|couldn'?t|won'?t|will not|am unable to|'m unable to|am not able to|'m not able"
    r" to|do not have (?:the|any|access)|don'?t have (?:the|any|access)|am not allowed|'m not allowed|must decline|"
    r"have to decline|am not (?:comfortable|programmed|capable)|'m not (?:comfortable|programmed|capable))"
)
_TASK = (
    r"(?: \w+ly)? (?:help|assist|provide|answer|comply|fulfil|do (?:that|this)|create|generate|write|share|give|"
    r"support|engage|discuss|access|browse|open|process|complete|respond|perform|produce|offer|continue with)"
)
_ENGLISH = re.compile(
    rf"(?:{_SORRY}[,.;:!]? (?:but |that )?(?:{_AI},? )?i ?{_CANNOT}"
    rf"|{_AI},? i ?(?:{_CANNOT}|do not|don'?t)"
    rf"|i ?(?:(?:can'?t|cannot|can not|won'?t|will not|am unable to|'m unable to|am not able to|'m not able to){_TASK})"
    rf"|(?:{_SORRY}[,.;:!]? (?:but )?)?(?:this|that) (?:request )?(?:is not something|isn'?t something) i can)\b"
)
_CHINESE = re.compile(
    r"(?:(?:很|非常|十分|实在)?(?:抱歉|对不起|遗憾|不好意思)[,，。!！:：、]?(?:但|不过|但是)?(?:作为.{0,20}?[,，])?我?"
    r"(?:无法|不能|没有办法|没办法|不可以|不会|暂时无法|还不能)"
    r"|作为(?:一个|一名|一款)?.{0,12}?(?:人工智能|ai|语言模型|智能助手|虚拟助手).{0,12}?[,，]?我?(?:无法|不能|没有能力|没有办法|不可以)"
    r"|我(?:无法|不能|没有办法)(?:为您|为你|向您|向你|帮您|帮你)?(?:提供|回答|协助|满足|帮助|完成|处理|执行|生成|参与))"
)


def not_refusing() -> Judge:
    """A judge of rows in which an answer to imitate begins by declining; of a preference the chosen side counts."""

    def judge(said: Spoken) -> str | None:
        for text in said.answers:
            if refuses(text):
                return f"begins with {' '.join(text.split())[:60]!r}"
        return None

    return judge


def refuses(text: str) -> bool:
    """Whether a text begins by declining to do what was asked."""
    start = " ".join(text[:240].split()).lower().replace("’", "'").lstrip("\"'“*_ ")
    return _ENGLISH.match(start) is not None or _CHINESE.match(start) is not None
