"""Floor 2, pure: the rules that decide whether a record is valid.

A record is judged on its own bytes, the manifest, its epoch and what it names, and on nothing else: never on
the clock, arrival order, reputation or what the judge happens to know. So all honest nodes reach the same
verdict, at any time. Public surface: `rules.judge`, `rules.judge_header`, `rules.parks`, `rules.RULES`,
`context.Context`, `named.named_by` and the verdicts in `verdict`.
"""
