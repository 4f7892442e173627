"""The text side of CTC fine-tuning (paper section 4).

* :mod:`speechbrain_pom.ctc.tokenizers`: characters or SentencePiece pieces as labels;
* :mod:`speechbrain_pom.ctc.tokenizer_store`: the units of a run, kept in a folder;
* :mod:`speechbrain_pom.ctc.targets`: checks of all transcripts before training;
* :mod:`speechbrain_pom.ctc.decoding`: greedy and beam search, with or without an n-gram;
* :mod:`speechbrain_pom.ctc.language_model`: checks of an n-gram before decoding;
* :mod:`speechbrain_pom.ctc.scoring`: word and character error rates with bootstrap intervals;
* :mod:`speechbrain_pom.reports.significance`: differences of two systems on the same utterances.
"""
