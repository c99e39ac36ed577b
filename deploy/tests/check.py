"""Checks deploy/, docker-compose.yml and docs/. Started by deploy/test, which installs the tools and says where they are."""

import sys

import bill
import chart
import compose
import docs
import monitoring
import readme
import receivers
import system
from report import Report

SECTIONS = {
    "bill": bill.check,
    "chart": chart.check,
    "monitoring": monitoring.check,
    "compose": compose.check,
    "docs": docs.check,
    "receivers": receivers.check,
    "readme": readme.check,
    "system": system.check,
}


def main() -> int:
    report = Report()
    for name in sys.argv[1:]:
        report.section(name)
        SECTIONS[name](report)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
