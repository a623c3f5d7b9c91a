"""`msrt demo`: the whole story on one machine, in real processes, and a verdict.

tree.py starts, kills and restarts the processes, load.py asks and times, judge.py holds each answer against bare
onnxruntime, report.py is the verdict, story.py tells it chapter by chapter, kills.py is its last part.
"""
