"""Many audio files at once, for `encode` and `transcribe`.

* :mod:`speechbrain_pom.inference.jobs.pool`: finds the files and works on them in processes;
* :mod:`speechbrain_pom.inference.jobs.outputs`: names of outputs, and the folder they go to;
* :mod:`speechbrain_pom.inference.jobs.ledger`: what is finished in such a folder;
* :mod:`speechbrain_pom.inference.jobs.encoding`: files of frames (`frame_files`);
* :mod:`speechbrain_pom.inference.jobs.transcribing`: files of text.
"""
