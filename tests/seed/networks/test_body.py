"""The body: layouts, stacks, the previous action and reward, and the state."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import NetworkConfig
from seed.networks.atari import ImpalaDeepTorso, ImpalaShallowTorso, NatureTorso
from seed.networks.body import Body
from seed.networks.mlp import MlpTorso
from seed.wire.spaces import SpaceSpec

VECTOR = SpaceSpec("float32", (4,))
DISCRETE = SpaceSpec("int64", (), 3)
BOX = SpaceSpec("float32", (2, 1))
PLAIN = NetworkConfig(torso="auto", frame_stack=1, hidden_sizes=(8,), lstm_size=0)
LSTM = replace(PLAIN, lstm_size=5)


def discrete_rows(length: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Previous actions, previous rewards, and no episode start."""
    actions = torch.randint(3, (length, batch))
    return actions, torch.randn(length, batch), torch.zeros(length, batch, dtype=torch.bool)


@pytest.mark.parametrize(
    ("torso", "shape", "kind"),
    [
        ("auto", (84, 84), NatureTorso),
        ("auto", (36, 36), NatureTorso),
        ("auto", (36, 35), MlpTorso),
        ("auto", (10, 10, 4), MlpTorso),
        ("auto", (84, 84, 2), NatureTorso),
        ("auto", (84, 84, 12), NatureTorso),
        ("auto", (17, 64, 64), NatureTorso),
        ("auto", (4, 84, 84, 3), NatureTorso),
        ("auto", (50, 40, 60), MlpTorso),
        ("auto", (4,), MlpTorso),
        ("nature", (84, 84), NatureTorso),
        ("impala_shallow", (84, 84), ImpalaShallowTorso),
        ("impala_deep", (10, 10, 4), ImpalaDeepTorso),
        ("mlp", (84, 84), MlpTorso),
    ],
)
def test_torso_by_name_and_shape(torso: str, shape: tuple[int, ...], kind: type) -> None:
    config = replace(PLAIN, torso=torso)  # type: ignore[arg-type]
    assert type(Body(SpaceSpec("uint8", shape), DISCRETE, config).torso) is kind


@pytest.mark.parametrize(
    ("torso", "shape", "text"),
    [
        ("nature", (4,), r'torso "nature" reads images .* got shape \(4,\)'),
        ("impala_deep", (50, 40, 60), r'torso "impala_deep" .* got shape \(50, 40, 60\)'),
        (
            "nature", (10, 5),
            'at least 36x36 .* got 10x5; use torso "impala_deep" or "mlp", or larger images',
        ),
        (
            "nature", (24, 30),
            'got 24x30; use torso "impala_shallow", "impala_deep" or "mlp"',
        ),
        ("resnet", (84, 84), 'torso must be .* got "resnet"'),
    ],
)
def test_refuses_a_torso_that_cannot_read(torso: str, shape: tuple[int, ...], text: str) -> None:
    config = replace(PLAIN, torso=torso)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=text):
        Body(SpaceSpec("uint8", shape), DISCRETE, config)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (SpaceSpec("uint8", (84, 84, 6)), '"nature", for an image of 84x84 pixels, 6 channels; '
         "values divided by 255"),
        (SpaceSpec("uint8", (10, 10, 4)), '"mlp", .* too small for "nature" .*"impala_deep" takes'),
        (SpaceSpec("float32", (4,)), r'"mlp", as the shape \(4,\) .* values taken as they are'),
        (SpaceSpec("int64", (), 9), "one-hot codes of 9 values"),
        (SpaceSpec("uint8", (3,), largest=(1, 9, 300)), "values divided by 1, 9, 1 along the last"),
    ],
)  # fmt: skip
def test_says_what_it_has_chosen_and_why(space: SpaceSpec, words: str) -> None:
    assert re.search(words, Body(space, DISCRETE, PLAIN).description)


def test_a_configured_torso_is_said_to_be() -> None:
    body = Body(SpaceSpec("uint8", (84, 84)), DISCRETE, replace(PLAIN, torso="mlp"))
    assert body.description.startswith('torso "mlp", as configured')


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("torso", ["mlp", "impala_deep"])
def test_observations_are_scaled_by_what_their_space_declares(
    torso: Literal["mlp", "impala_deep"], precision: Literal["float32", "bfloat16"]
) -> None:
    """The same pictures as uint8 with bounds and as float32 from 0 to 1 give the same features."""
    config = replace(PLAIN, torso=torso, frame_stack=2, precision=precision)
    largest = (1, 7, 255)
    bounded = Body(SpaceSpec("uint8", (8, 9, 3), largest=largest), DISCRETE, config)
    plain = Body(SpaceSpec("float32", (8, 9, 3)), DISCRETE, config)
    plain.load_state_dict(bounded.state_dict())
    for body in (bounded, plain):
        body.round_weights()
    pictures = torch.stack([torch.randint(n + 1, (3, 4, 2, 8, 9)) for n in largest], dim=-1)
    rows = discrete_rows(3, 4)
    features, _ = bounded({"": pictures.to(torch.uint8)}, *rows, bounded.initial_state(4))
    expected, _ = plain({"": pictures / torch.tensor(largest)}, *rows, plain.initial_state(4))
    tolerance = 1e-5 if precision == "float32" else 0.03
    torch.testing.assert_close(features, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("shape", [(20, 22), (20, 22, 3), (3, 20, 22)])
def test_torso_gets_the_stack_as_channels(stack: int, shape: tuple[int, ...]) -> None:
    config = replace(PLAIN, torso="impala_shallow", frame_stack=stack)
    body = Body(SpaceSpec("uint8", shape), DISCRETE, config)
    observations = torch.randint(256, (2, 3, stack, *shape), dtype=torch.uint8)
    channels: list[Tensor] = []
    for frame in observations.flatten(0, 1).unbind(1):
        if len(shape) == 2:
            channels.append(frame)
        else:
            channels += frame.unbind(-1 if shape[-1] == 3 else 1)
    expected = body.torso(torch.stack(channels, dim=1)).reshape(2, 3, -1)
    given = observations if stack > 1 else observations[:, :, 0]
    features, _ = body({"": given}, *discrete_rows(2, 3), body.initial_state(3))
    torch.testing.assert_close(features, expected)


def test_mlp_flattens_the_stack() -> None:
    body = Body(VECTOR, DISCRETE, replace(PLAIN, frame_stack=3))
    observations = torch.randn(2, 5, 3, 4)
    features, _ = body({"": observations}, *discrete_rows(2, 5), body.initial_state(5))
    torch.testing.assert_close(features, body.torso(observations.reshape(10, 12)).reshape(2, 5, 8))


def test_the_action_mask_is_left_out() -> None:
    body = Body(VECTOR, DISCRETE, PLAIN)
    observations, others = torch.randn(2, 5, 4), (*discrete_rows(2, 5), body.initial_state(5))
    expected, _ = body({"": observations}, *others)
    masked = {"action_mask": torch.ones(2, 5, 3), "observation": observations}
    assert torch.equal(body(masked, *others)[0], expected)


def test_without_lstm_there_is_no_state() -> None:
    body = Body(VECTOR, DISCRETE, PLAIN)
    assert (body.output_size, body.state_size) == (8, 0)
    features, state = body({"": torch.randn(2, 5, 4)}, *discrete_rows(2, 5), body.initial_state(5))
    assert features.shape == (2, 5, 8)
    assert state.shape == (5, 0)


def test_forget_bias_is_the_configured_one() -> None:
    core = Body(VECTOR, DISCRETE, replace(LSTM, lstm_forget_bias=30.0)).core
    assert core is not None
    assert core.input.bias[5:10].min() > 29


def test_initial_state_is_zeros() -> None:
    state = Body(VECTOR, DISCRETE, LSTM).initial_state(6)
    assert torch.equal(state, torch.zeros(6, 10))


def test_core_gets_features_action_and_reward() -> None:
    body = Body(VECTOR, DISCRETE, LSTM)
    assert body.core is not None
    assert (body.output_size, body.state_size) == (5, 10)
    observations, state = torch.randn(3, 2, 4), torch.randn(2, 10)
    actions, rewards, first = discrete_rows(3, 2)
    one_hots = torch.eye(3)[actions]
    features = body.torso(observations.reshape(6, 4)).reshape(3, 2, 8)
    inputs = torch.cat([features, one_hots, rewards[..., None]], dim=-1)
    expected = body.core(inputs, first, state)
    torch.testing.assert_close(body({"": observations}, actions, rewards, first, state), expected)


def test_core_gets_box_actions_as_they_are() -> None:
    body = Body(VECTOR, BOX, LSTM)
    assert body.core is not None
    observations, actions, rewards = torch.randn(3, 2, 4), torch.randn(3, 2, 2), torch.randn(3, 2)
    first = torch.zeros(3, 2, dtype=torch.bool)
    features = body.torso(observations.reshape(6, 4)).reshape(3, 2, 8)
    inputs = torch.cat([features, actions, rewards[..., None]], dim=-1)
    expected = body.core(inputs, first, body.initial_state(2))
    for given in (actions, actions.reshape(3, 2, 2, 1)):
        result = body({"": observations}, given, rewards, first, body.initial_state(2))
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("action", [DISCRETE, BOX])
def test_an_episode_start_forgets_all_that_came_before(action: SpaceSpec) -> None:
    body = Body(VECTOR, action, LSTM)
    observations = torch.randn(2, 3, 4)
    first = torch.tensor([[False, True, False], [True, False, False]])
    if action.n is None:
        actions, others = torch.randn(2, 2, 3, 2).unbind()
        others[first] = torch.nan
    else:
        actions = torch.randint(3, (2, 3))
        others = (actions + 1) % 3
    state = torch.randn(3, 10)
    before, _ = body({"": observations}, actions, torch.zeros(2, 3), first, state)
    after, _ = body({"": observations}, others, torch.full((2, 3), 9.0), first, state + 1)
    assert torch.equal(before[first], after[first])
    assert not torch.isclose(before[~first], after[~first]).all(dim=-1).any()


def test_rows_one_by_one_match_the_whole() -> None:
    body = Body(VECTOR, DISCRETE, LSTM)
    observations = torch.randn(6, 2, 4)
    actions, rewards, _ = discrete_rows(6, 2)
    first = torch.rand(6, 2) < 0.3
    whole, last_state = body({"": observations}, actions, rewards, first, body.initial_state(2))
    state = body.initial_state(2)
    for t in range(6):
        row = slice(t, t + 1)
        others = actions[row], rewards[row], first[row]
        features, state = body({"": observations[row]}, *others, state)
        torch.testing.assert_close(features, whole[row])
    torch.testing.assert_close(state, last_state)


def record_products(body: Body) -> set[torch.dtype]:
    """The dtypes that the body's layers gave, where its features and state are float32."""
    given: set[torch.dtype] = set()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        given.add(output.dtype)

    for module in body.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(record)
    rows = torch.randint(256, (3, 2, 36, 36), dtype=torch.uint8)
    features, state = body({"": rows}, *discrete_rows(3, 2), torch.zeros(2, body.state_size))
    assert features.dtype == state.dtype == torch.float32
    features.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in body.parameters())
    return given


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lstm_size", [0, 5])
def test_precision_is_that_of_the_products(
    precision: Literal["float32", "bfloat16"], lstm_size: int
) -> None:
    config = replace(PLAIN, precision=precision, lstm_size=lstm_size)
    body = Body(SpaceSpec("uint8", (36, 36)), DISCRETE, config)
    assert record_products(body) == {getattr(torch, precision)}


def test_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    rows = torch.randint(256, (4, 3, 36, 36), dtype=torch.uint8)
    others = discrete_rows(4, 3)
    outputs = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        body = Body(SpaceSpec("uint8", (36, 36)), DISCRETE, replace(LSTM, precision=precision))
        outputs.append(body({"": rows}, *others, torch.zeros(3, body.state_size))[0])
    # bfloat16 keeps 8 bits of a number.
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0.02)
    assert (outputs[1] != outputs[0]).any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounded_weights_give_the_same_features(precision: Literal["float32", "bfloat16"]) -> None:
    torch.manual_seed(0)
    body = Body(SpaceSpec("uint8", (36, 36)), DISCRETE, replace(LSTM, precision=precision))
    body.torso.register_buffer("mean", torch.zeros(3))
    body.torso.register_buffer("squares", torch.zeros(3, dtype=torch.float64))
    rows = torch.randint(256, (1, 3, 36, 36), dtype=torch.uint8)
    others = discrete_rows(1, 3)
    with torch.inference_mode():
        before, _ = body({"": rows}, *others, torch.zeros(3, body.state_size))
        body.round_weights()
        after, _ = body({"": rows}, *others, torch.zeros(3, body.state_size))
    assert body.torso.layers[0].weight.dtype == getattr(torch, precision)
    # Not what an algorithm has measured, say.
    buffers = list(body.buffers())
    assert {buffer.dtype for buffer in buffers} == {torch.float32, torch.float64}
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, rtol=0, atol=0.004 if precision == "bfloat16" else 0)
