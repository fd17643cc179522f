"""The lab: sweeps of ./train, ./serve and ./generate, their statistics, and the verdicts on claims.

    command.py    flags with lists and ranges, and their product
    claim.py      a claim file: thesis, arms, comparisons with predictions
    trainer.py    asks ./train what a run would be, starts it, reads what it left
    server.py     the same of ./serve
    asker.py      the same of ./generate --questions, and of the models that it asks
    warm.py       the same of trainings that start where another one ended, or learn from another model
    answerer.py   the same of ./serve with models that are trained for it
    programs.py   which of these a claim's command needs
    records.py    the results: one CSV row per run
    match.py      widths or steps that give arms an equal budget
    stats.py      t-intervals, Holm's correction, the smallest detectable difference
    verdict.py    from the records of a claim to HOLDS, FAILS or INCONCLUSIVE
    report.py     the same in words, and the facts that pages may quote
    sweep.py, check.py, table.py, figure.py, notebook.py    the commands, the pictures, what notebooks show

Only trainer.py, server.py, asker.py, warm.py and answerer.py start programs, and only of this repository; everything
below verdict.py sees records alone.
"""
