#!/usr/bin/env python3
"""Make multiple-choice items from a text: how does the sentence end?

    python3 scripts/make-choices.py models/folio-4M/eval.txt models/folio-4M/choices.jsonl

Of each item the question is the first half of a sentence, the sentences before it in its paragraph in front (300 characters at
most); the right choice is the second half, the three wrong ones are second halves of sentences at least 5,000 characters away
whose length differs by at most a fifth. 240 items, evenly spread over the text; an ending is a wrong choice of at most four.
The same text gives the same bytes. Layout: plain ({"question", "choices", "answer"}, see nibble-check tasks).
"""
import json
import re
import sys

ITEMS, APART, QUESTION, REUSE = 240, 5000, 300, 4
SENTENCE_END = r"(?<=[.!?][\"'])\s(?=[\"'A-Z])|(?<=[.!?])\s(?=[\"'A-Z])"


def read_sentences(text):
    """(position, what stands before it in its paragraph, first half, second half) of every sentence of 80 characters or more."""
    for line in re.finditer(r"[^\n]{80,}", text):
        at = 0
        for sentence in re.split(SENTENCE_END, line.group()):
            middle = sentence.find(" ", len(sentence) // 2)
            if 80 <= len(sentence) <= 240 and middle > 0 and len(sentence) - middle > 30:
                yield line.start() + at, line.group()[:at], sentence[:middle], sentence[middle + 1:]
            at += len(sentence) + 1


def question_of(before, first):
    """The first half with as many whole words in front of it as fit."""
    room = QUESTION - len(first)
    if len(before) > room:
        before = before[len(before) - room:].partition(" ")[2]
    return before + first


class Picker:
    """A linear congruential generator (Knuth's MMIX), of which the high bits are used."""
    state = 1

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2 ** 64
        return (self.state >> 33) % bound


def main():
    text = open(sys.argv[1], encoding="utf-8").read()
    found = list(read_sentences(text))
    picker, used, items = Picker(), {}, []
    for i in range(min(ITEMS, len(found))):
        at, before, first, right = found[i * len(found) // ITEMS]
        others = [end for where, _, _, end in found
                  if abs(where - at) >= APART and used.get(end, 0) < REUSE and abs(len(end) - len(right)) * 5 <= len(right)]
        if len(others) < 3:
            continue
        wrong = [others.pop(picker.below(len(others))) for _ in range(3)]
        for end in wrong:
            used[end] = used.get(end, 0) + 1
        answer = picker.below(4)
        items.append({"question": question_of(before, first), "choices": wrong[:answer] + [right] + wrong[answer:],
                      "answer": answer})
    with open(sys.argv[2], "w", encoding="utf-8", newline="\n") as out:
        for item in items:
            out.write(json.dumps(item, ensure_ascii=False) + "\n")
    print(f"{len(found)} sentences, {len(items)} items")


main()
