#!/usr/bin/env python3
"""Read a JUnit report with an independent XML parser: junit_reader.py FILE. Checks the structure that GitHub, GitLab and Jenkins
rely on and prints what they would show, one line per fact, as ASCII. Exits 1 with a message if anything is wrong. Standard
library only."""
import sys
import xml.etree.ElementTree as tree


def need(condition, message):
    if not condition:
        sys.exit(message)


def main():
    root = tree.parse(sys.argv[1]).getroot()
    need(root.tag == "testsuites", "the root is %s" % root.tag)
    need(len(root) == 1 and root[0].tag == "testsuite", "not one testsuite")
    suite = root[0]
    cases = suite.findall("testcase")
    counts = {"tests": len(cases), "failures": len(suite.findall("testcase/failure")),
              "errors": len(suite.findall("testcase/error"))}
    for element in (root, suite):
        for name, count in counts.items():
            need(element.get(name) == str(count), "%s %s: %s, but there are %d" % (
                element.tag, name, element.get(name), count))
        float(element.get("time"))
    print("suite", ascii(suite.get("name")))
    for item in suite.findall("properties/property"):
        print("property", item.get("name"), ascii(item.get("value")))
    for case in cases:
        float(case.get("time"))
        print("case", ascii(case.get("classname")), case.get("name"))
        for outcome in case:
            need(outcome.tag in ("failure", "error", "system-out"), "unknown element %s" % outcome.tag)
            if outcome.tag != "system-out":
                need(outcome.get("type"), "no type")
                print(outcome.tag, ascii(outcome.get("message")), ascii(outcome.text or ""))


main()
