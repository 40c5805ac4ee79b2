"""What is there to show of a study or a recipe? Plain records, collected and not drawn.

    report = collect_report(Subject.of("recipes/mine.json"))
    report.verdict.speedup, report.trials[0].name

`records` has what is collected, `subject` says of what, `collecting` puts it together; every other
module collects one part. `cli.render.page` draws it.
"""

from sensitivity.workflows.report.collecting import collect_report
from sensitivity.workflows.report.records import Report
from sensitivity.workflows.report.subject import Subject, find_subject

__all__ = ["Report", "Subject", "collect_report", "find_subject"]
