"""The study of LiteAttention on the demo model.

    python -m benchmarks.lite_study [PART ...] [--quick]

Parts, by default all of them:
  rules      tiles skipped at equal output error: every rule, order and baseline, held-out clips
  times      attention time at that error, in pairs with dense attention
  one_step   one sparse step, the others dense: the error of the clip by step
  segments   the paper's three segments of output error against one flat bound
  growth     computed tiles against the length of the clip
  fields     synthetic score fields whose negligible tiles are known
  coherence  how long negligible tiles stay negligible

What is drawn is kept in --out and found again: an interrupted study goes on where it stopped.
--report draws nothing and shows what there is. Writes study.html, study.json and the pictures.
"""
