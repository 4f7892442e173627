"""Offline speech synthesis with eSpeak NG, as a pure function of its arguments.

eSpeak NG keeps state between utterances (phase of the wave generator, echo buffer, random numbers),
and `espeak_Terminate` does not clear it: the same sentence gives other samples the second time.
So the shared library is unloaded after each utterance and loaded again for the next one, which
takes about 3 ms, and its random numbers are seeded. The library and its data come with the package
`espeakng-loader`.
"""

import _ctypes
import contextlib
import ctypes
import os
import tempfile
import threading

import numpy as np

from speechbrain_pom.utils.errors import UserError

SAMPLE_RATE = 22050
"""Sample rate of eSpeak NG's output, in Hz."""

# Names and values of eSpeak NG's public header speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
# Number of each parameter, and its range: eSpeak NG takes other values without a word.
_PARAMETERS = {
    "rate_wpm": (1, 80, 450),
    "pitch": (3, 0, 100),
    "pitch_range": (4, 0, 100),
    "word_gap_10ms": (7, 0, 1000),
}

# eSpeak NG holds the path of its data in 160 bytes and the names of the files come on top of it.
_MAX_DATA_PATH_BYTES = 140

_SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

_lock = threading.Lock()


def synthesize(
    text: str,
    voice: str,
    *,
    rate_wpm: int,
    pitch: int,
    pitch_range: int,
    word_gap_10ms: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Speak a text.

    The result depends on the arguments alone: not on what was synthesised before, nor in which
    process or thread. Calls from several threads of one process wait for each other.

    Arguments
    ---------
    text : str
        What to say.
    voice : str
        eSpeak NG voice with an optional variant, for example `"en-us+f2"`.
    rate_wpm : int
        Speaking rate in words per minute, 80 to 450.
    pitch : int
        Base pitch relative to the voice's own, 0 to 100; 50 leaves it as it is.
    pitch_range : int
        Liveliness of the intonation, 0 (monotone) to 100; 50 leaves it as it is.
    word_gap_10ms : int
        Additional pause between words, in units of 10 ms, 0 to 1000.
    seed : int
        Seed of eSpeak NG's random numbers (breath, flutter). The lowest 31 bits count.

    Returns
    -------
    numpy.ndarray
        (num_samples,) int16, at `SAMPLE_RATE`.

    Raises
    ------
    UserError
        When `espeakng-loader` is missing or damaged, or an argument is none of eSpeak NG's.
    RuntimeError
        When other code of this process uses the same library.

    Example
    -------
    >>> speech = synthesize("hello world", "en-us", rate_wpm=160, pitch=50, pitch_range=50)
    >>> speech.dtype, 0.5 < len(speech) / SAMPLE_RATE < 2
    (dtype('int16'), True)
    """
    parameters = {
        "rate_wpm": rate_wpm,
        "pitch": pitch,
        "pitch_range": pitch_range,
        "word_gap_10ms": word_gap_10ms,
    }
    with _fresh_library() as library:
        return _speak(library, text, voice, parameters, seed)


def version() -> str:
    """Version of the eSpeak NG library that `synthesize` uses.

    >>> version().split(".")[0]
    '1'
    """
    with _fresh_library() as library:
        library.espeak_Info.restype = ctypes.c_char_p
        return library.espeak_Info(None).decode()


def _speak(library, text, voice, parameters, seed):
    chunks = []

    @_SYNTH_CALLBACK
    def collect(samples, num_samples, _events):
        if samples and num_samples > 0:
            chunks.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed & 0x7FFFFFFF))
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise UserError(f"eSpeak NG has no voice '{voice}'")
    for name, value in parameters.items():
        number, lowest, highest = _PARAMETERS[name]
        if not lowest <= value <= highest:
            raise UserError(f"{name} = {value}: eSpeak NG takes {lowest} to {highest}")
        library.espeak_SetParameter(number, int(value), 0)
    encoded = text.encode()
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    ]
    status = library.espeak_Synth(
        encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
    )
    if status != 0 or not chunks:
        raise UserError(f"eSpeak NG could not say '{text}' (status {status})")
    return np.frombuffer(b"".join(chunks), dtype=np.int16)


@contextlib.contextmanager
def _fresh_library():
    """The library in the state of a new process, started; unloaded at the end."""
    path, data_path = _locate()
    with _lock, _short_path(data_path) as short_data_path:
        library = _load(path)
        try:
            status = library.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(short_data_path), _INITIALIZE_DONT_EXIT
            )
            if status != SAMPLE_RATE:
                raise UserError(f"eSpeak NG does not start with its data in '{data_path}'")
            yield library
        finally:
            library.espeak_Terminate()
            _unload(library)


def _locate():
    """Paths of the library and of its data."""
    try:
        import espeakng_loader
    except ImportError as err:
        raise UserError(
            "the mini corpus is synthesised with the package espeakng-loader, which is not "
            'installed: pip install "speechbrain-pom[demo]"'
        ) from err
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _load(path):
    try:
        library = ctypes.CDLL(path)
        # 0 until the library is initialised; otherwise it has the state of other utterances.
        is_fresh = library.espeak_ng_GetSampleRate() == 0
        _ = library.espeak_ng_SetRandSeed
    except (OSError, AttributeError) as err:
        raise UserError(
            f"cannot use the eSpeak NG library '{path}' ({err}): "
            'pip install --upgrade "speechbrain-pom[demo]"'
        ) from err
    if not is_fresh:
        _unload(library)
        raise RuntimeError(
            "eSpeak NG is already in use in this process, which would make its output depend on "
            "earlier speech: run `python -m speechbrain_pom mini-corpus` on its own"
        )
    return library


def _unload(library):
    # ctypes itself never unloads. FreeLibrary is dlclose's name on Windows.
    unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary
    unload(library._handle)


@contextlib.contextmanager
def _short_path(data_path):
    if len(os.fsencode(data_path)) <= _MAX_DATA_PATH_BYTES:
        yield data_path
        return
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        link = os.path.join(folder, "espeak-ng-data")
        os.symlink(data_path, link, target_is_directory=True)
        yield link
