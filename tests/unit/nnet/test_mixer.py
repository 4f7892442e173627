"""The contract of a token mixer: what the base class checks, and how mixers are registered."""

import pytest
import torch

import speechbrain_pom
from speechbrain_pom.nnet.mixer import TokenMixer, register_mixer, registered_mixers
from speechbrain_pom.utils.errors import UserError


class Copy(TokenMixer):
    """Returns the key."""

    def mix_frames(self, query, key, attn_mask, key_padding_mask):
        return key


class CopyOfAnother(Copy):
    """The same for any key."""

    accepts_key = True


FRAMES, OTHER = torch.randn(2, 1, 5, 4)


def test_the_call_is_that_of_speechbrains_attention():
    for arguments in ((FRAMES,), (FRAMES, FRAMES), (FRAMES, FRAMES, FRAMES)):
        output, weights = Copy()(*arguments, None, None, False, pos_embs=None)
        assert output is FRAMES
        assert weights is None
    assert CopyOfAnother()(FRAMES, OTHER, OTHER)[0] is OTHER


@pytest.mark.parametrize(
    ("mixer", "arguments", "message"),
    [
        (Copy, (FRAMES, OTHER, OTHER), "^Copy: key is another tensor than query: it mixes one "),
        (Copy, (FRAMES, FRAMES, OTHER), "^Copy: value is another tensor than key: it has no "),
        (Copy, (FRAMES, None, OTHER), "^Copy: value is another tensor than key"),
        (CopyOfAnother, (FRAMES, OTHER, FRAMES), "^CopyOfAnother: value is another tensor"),
    ],
)
def test_tensors_that_a_mixer_cannot_use_are_refused(mixer, arguments, message):
    with pytest.raises(UserError, match=message):
        mixer()(*arguments)


@pytest.mark.parametrize("size", [0, -1, 1.0, True, "4", None])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(UserError, match=r"^Copy: d_ffn is .*: give a whole number of at least 1$"):
        Copy().check_size("d_ffn", size)


def test_sizes_and_choices_are_quoted_with_the_registered_name():
    mixer = speechbrain_pom.PolynomialMixer(4)
    mixer.check_size("width", 12, nhead=4)
    with pytest.raises(
        UserError, match=r"^PoM: width is 10: give a multiple of nhead, which is 4$"
    ):
        mixer.check_size("width", 10, nhead=4)
    with pytest.raises(UserError, match=r"^PoM: mode is 'x': choose one of a, b$"):
        mixer.check_choice("mode", "x", ("a", "b"))


def test_what_a_mixer_does_not_implement_it_says():
    mixer = Copy()
    assert mixer.num_passes == 0
    for call, message in (
        (lambda: mixer.summarise(FRAMES), "Copy has no summary"),
        (lambda: mixer.mix(FRAMES, None), "Copy has no summary"),
        (lambda: mixer.step(FRAMES), "Copy cannot mix a stream step by step"),
        (lambda: TokenMixer()(FRAMES), "TokenMixer does not implement mix_frames"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            call()


def test_every_registered_mixer_is_an_attention_type():
    for name, (mixer, description) in registered_mixers().items():
        assert speechbrain_pom.attention_types()[name] == description
        assert issubclass(mixer, TokenMixer)
        assert mixer.registered_name == name


def test_registrations_that_cannot_take_effect_are_refused():
    with pytest.raises(UserError, match=r"speechbrain_pom.register_attention\('Copy', Copy\)$"):
        register_mixer("Copy", "from elsewhere, after the import")(Copy)
    inside = type("Inside", (Copy,), {"__module__": "speechbrain_pom.nnet.inside"})
    with pytest.raises(UserError, match=r"mixer name 'PoM' is taken by PolynomialMixer: choose"):
        register_mixer("PoM", "a second one")(inside)
    assert "Copy" not in registered_mixers()
