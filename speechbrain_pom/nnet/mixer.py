"""The contract of a token mixer: the call of SpeechBrain's attention, and what models ask of it."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from torch import Tensor

from speechbrain_pom.nnet.streams import StreamSteps
from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.utils.errors import UserError

_registered: dict[str, tuple[type["TokenMixer"], str]] = {}


class TokenMixer(StreamSteps):
    """Base class of the token mixers, with the call of SpeechBrain's attention modules.

    A subclass implements `mix_frames`. In its constructor `__init__(self, d_model, ...)` the
    arguments nhead, dropout, causal and d_ffn come from the encoder layer; all others are options
    of the attention spec. A `LayerNorm`, positions and the residual connection are not its task.

    If all it needs to know of a sequence adds up over the sequence's parts, it also sets
    `num_passes` and implements `summarise` and `mix`: hours of audio are then encoded window by
    window, exactly as in one piece. With `summary_size` besides, streams are mixed chunk by chunk
    in a state of constant size: `first_state` and `step` (`speechbrain_pom.nnet.streams`).

    Attributes
    ----------
    accepts_chunk_mask : bool
        Whether `attn_mask` may be a `speechbrain_pom.ops.ChunkMask` in place of a (T, T) tensor.
    accepts_key : bool
        Whether the key may be another sequence than the query.
    can_stream : bool
        Of a mixer without `step`: whether a frame needs no more than its chunk and the left frames
        that SpeechBrain's `encode_streaming` then keeps; False refuses that method.
    keeps_own_initialisation : bool
        Whether `reset_parameters` is called again after SpeechBrain has initialised all matrices of
        a model in its own way. Any submodule may set it.
    num_passes : int
        Calls of `summarise` over a whole sequence before `mix`; 0: the mixer has no summary.

    Raises
    ------
    UserError
        In `forward`, for a key or value that the mixer cannot use.

    Example
    -------
    >>> from torch import nn
    >>> class MeanMixer(TokenMixer):
    ...     def __init__(self, d_model):
    ...         super().__init__()
    ...         self.proj = nn.Linear(d_model, d_model)
    ...
    ...     def mix_frames(self, query, key, attn_mask, key_padding_mask):
    ...         return self.proj(query) + key.mean(1, keepdim=True)
    >>> output, weights = MeanMixer(8)(torch.randn(2, 50, 8))
    >>> output.shape, weights
    (torch.Size([2, 50, 8]), None)
    """

    accepts_chunk_mask = False
    accepts_key = False
    can_stream = True
    keeps_own_initialisation = False
    num_passes = 0
    registered_name: str | None = None

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        attn_mask: AttnMask = None,
        key_padding_mask: Tensor | None = None,
        return_attn_weights: bool = True,
        pos_embs: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Mix the frames.

        Arguments
        ---------
        query : torch.Tensor
            (B, T, d_model).
        key : torch.Tensor, optional
            (B, S, d_model): the frames to summarise; the query itself when not given. Another
            sequence only where the mixer `accepts_key`.
        value : torch.Tensor, optional
            Ignored: None, or the key itself.
        attn_mask : torch.Tensor or ChunkMask, optional
            (T, S) in SpeechBrain's convention (boolean, True = hidden; or additive, 0 and -inf),
            honoured exactly or refused; see `speechbrain_pom.ops.parse_attn_mask`.
        key_padding_mask : torch.Tensor, optional
            (B, S) boolean, True = padding.
        return_attn_weights : bool
            Ignored: there are no attention weights.
        pos_embs : torch.Tensor, optional
            Ignored: positions are added to the encoder's input.

        Returns
        -------
        output : torch.Tensor
            (B, T, d_model).
        None
            In place of attention weights; no (B, T, T) tensor is built.
        """
        key = query if key is None else key
        if key is not query and not self.accepts_key:
            raise UserError(
                f"{self._name}: key is another tensor than query: it mixes one sequence with "
                "itself; pass the query"
            )
        if value is not None and value is not key:
            raise UserError(
                f"{self._name}: value is another tensor than key: it has no separate values; "
                "pass the key"
            )
        return self.mix_frames(query, key, attn_mask, key_padding_mask), None

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; arguments as `forward`, where key is a tensor and may be the query.

        Returns
        -------
        torch.Tensor
            (B, T, d_model).
        """
        raise NotImplementedError(f"{self._name} does not implement mix_frames")

    def summarise(
        self, key: Tensor, key_padding_mask: Tensor | None = None, earlier: Any = None
    ) -> Any:
        """Summarise a sequence that has no attention mask, or a part of one.

        Arguments
        ---------
        key : torch.Tensor
            (B, T, d_model): the sequence, or a part of it.
        key_padding_mask : torch.Tensor, optional
            (B, T) boolean, True = padding.
        earlier : NamedTuple of torch.Tensor, optional
            From the second pass on: the whole sequence's summary of the pass before.

        Returns
        -------
        NamedTuple of torch.Tensor
            Summaries of the parts of a sequence add up (`+`) to that of the whole.
        """
        raise NotImplementedError(f"{self._name} has no summary")

    def mix(self, query: Tensor, summary: Any) -> Tensor:
        """Mix frames of a sequence whose summary is known.

        Arguments
        ---------
        query : torch.Tensor
            (B, T, d_model): any frames of the sequence.
        summary : NamedTuple of torch.Tensor
            The whole sequence's, from the last pass.

        Returns
        -------
        torch.Tensor
            (B, T, d_model), as `forward` returns it for these frames in eval mode.
        """
        raise NotImplementedError(f"{self._name} has no summary")

    def check_size(self, name: str, size: int, nhead: int = 1) -> None:
        """Refuse a size that is not a whole number of at least 1, or that nhead does not divide.

        Arguments
        ---------
        name : str
            The option, for the message.
        size : int
            What the user gave.
        nhead : int
            What has to divide it.

        Raises
        ------
        UserError
        """
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"{self._name}: {name} is {size!r}: give a whole number of at least 1")
        if size % nhead:
            raise UserError(
                f"{self._name}: {name} is {size}: give a multiple of nhead, which is {nhead}"
            )

    def check_choice(self, name: str, value: object, choices: Collection[str]) -> None:
        """Refuse a value that is not one of the choices.

        Arguments
        ---------
        name : str
            The option, for the message.
        value : object
            What the user gave.
        choices : collection of str
            What there is.

        Raises
        ------
        UserError
        """
        if value not in choices:
            raise UserError(
                f"{self._name}: {name} is {value!r}: choose one of {', '.join(choices)}"
            )

    @property
    def _name(self):
        return self.registered_name or type(self).__name__


Mixer = TypeVar("Mixer", bound=type[TokenMixer])


def register_mixer(name: str, description: str) -> Callable[[Mixer], Mixer]:
    """Decorator for the mixers in this folder: importing `speechbrain_pom` makes them available.

    Mixers from elsewhere are registered by `speechbrain_pom.register_attention`.

    Arguments
    ---------
    name : str
        The attention type, as in `attention_type: PoM`.
    description : str
        One line, for lists of the attention types.

    Returns
    -------
    callable
        Takes the class and returns it.

    Raises
    ------
    UserError
        If the name is taken, or the class is defined outside this folder.

    Example
    -------
    >>> from speechbrain_pom.nnet import PolynomialMixer
    >>> registered_mixers()["PoM"][0] is PolynomialMixer
    True
    """

    def decorate(mixer):
        if mixer.__module__.rpartition(".")[0] != __package__:
            raise UserError(
                f"{mixer.__qualname__} is not defined in a module of {__package__}: register it "
                f"with speechbrain_pom.register_attention({name!r}, {mixer.__qualname__})"
            )
        if name in _registered:
            raise UserError(
                f"the mixer name {name!r} is taken by {_registered[name][0].__qualname__}: choose "
                "another"
            )
        mixer.registered_name = name
        _registered[name] = mixer, description
        return mixer

    return decorate


def registered_mixers() -> dict[str, tuple[type[TokenMixer], str]]:
    """The mixers of this folder by name: class and description.

    Returns
    -------
    dict of str to (type, str)
    """
    return dict(_registered)
