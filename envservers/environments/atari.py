"""Atari games in ale-py's native vector environment, with exact and explicit preprocessing."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields

import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from envservers.environments.group import Array, EpisodeTracker, GroupRow, InvalidEnvironment
from seed.wire.spaces import SpaceSpec

_NOOP = 0
# ale-py lists these, and ends the whole process when it loads one of them.
_TWO_PLAYER_GAMES = ("combat", "joust", "maze_craze", "warlords")
_LARGEST_SEED = 2**31 - 1
_SMALLEST_VALUES = {
    "action_repeat": 1, "noop_max": 0, "max_frames_per_episode": 1, "screen_size": 1,
    "sticky_action_probability": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class AtariOptions:
    """How the emulator's frames become observations; the learner's `[environment.atari]`.

    Attributes:
        action_repeat: Emulator frames for which each action is held.
        full_action_set: All 18 joystick actions instead of the ones that the game uses.
        sticky_action_probability: Probability that the emulator repeats its previous action for
            a frame.
        noop_max: Most no-op frames at the start of a game; the number is drawn at random.
        max_frames_per_episode: Emulator frames after which a game is truncated.
        life_loss_ends_episode: Whether losing a life ends the learner's episode. The game goes on,
            and the statistics count whole games.
        fire_reset: Whether FIRE is pressed once after a reset, in games that wait for it.
        screen_size: Height and width of an observation in pixels.
        grayscale: One gray channel instead of three colours.
        max_pool: Pixel-wise maximum over the last two frames, against sprites that flicker.
    """

    action_repeat: int = 4
    full_action_set: bool = False
    sticky_action_probability: float = 0.0
    noop_max: int = 30
    max_frames_per_episode: int = 108_000
    life_loss_ends_episode: bool = False
    fire_reset: bool = False
    screen_size: int = 84
    grayscale: bool = True
    max_pool: bool = True

    def __post_init__(self) -> None:
        """Raises InvalidEnvironment for an option of another type or out of its range."""
        for field in fields(self):
            value, smallest = getattr(self, field.name), _SMALLEST_VALUES.get(field.name)
            expected = bool if smallest is None else type(smallest)
            accepted = (float, int) if expected is float else (expected,)
            if type(value) not in accepted or (smallest is not None and value < smallest):
                bound = "" if smallest is None else f" of at least {smallest}"
                raise InvalidEnvironment(
                    f"environment.atari.{field.name}: expected {expected.__name__}{bound}, "
                    f"got {value!r}"
                )
        if self.sticky_action_probability > 1:
            raise InvalidEnvironment(
                "environment.atari.sticky_action_probability: expected at most 1, "
                f"got {self.sticky_action_probability!r}"
            )


class AtariGroup:
    """Games of one title in one emulator object; see `envservers.environments.group.Group`.

    Observations are uint8 pixels, `[size, size]` or `[size, size, 3]`, and never stacked.
    """

    def __init__(self, game: str, num_envs: int, options: AtariOptions) -> None:
        """Makes the games, which `reset` starts.

        Raises:
            InvalidEnvironment: where ale-py has no such game.
        """
        _check_game(game)
        size = options.screen_size
        # The emulator's own threads would compete with the other groups' and servers' work.
        # `episodic_life` is left off: it starts a whole new game at every lost life.
        self._env = AtariVectorEnv(
            game,
            num_envs,
            stack_num=1,
            num_threads=1,
            reward_clipping=False,
            episodic_life=False,
            life_loss_info=options.life_loss_ends_episode,
            frameskip=options.action_repeat,
            full_action_space=options.full_action_set,
            repeat_action_probability=float(options.sticky_action_probability),
            noop_max=options.noop_max,
            max_num_frames_per_episode=options.max_frames_per_episode,
            use_fire_reset=options.fire_reset,
            img_height=size,
            img_width=size,
            grayscale=options.grayscale,
            maxpool=options.max_pool,
        )
        self.num_envs = num_envs
        self._strengths = [1.0] * num_envs
        shape = (size, size) if options.grayscale else (size, size, 3)
        self.observation = SpaceSpec("uint8", shape)
        self.action = SpaceSpec("int64", (), len(self._env.ale.get_action_set()))
        self._options = options
        self._episodes = EpisodeTracker(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(self, seeds: Array) -> GroupRow:
        """Starts new games; the emulator takes 31 bits of each seed."""
        observations, _ = self._env.reset(seed=seeds % _LARGEST_SEED)
        self._episodes.reset()
        no, zero = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.float32)
        self._ended = no
        return GroupRow(observations[:, 0], zero, no, no, ~no, self._episodes.add(zero, no))

    def step(self, actions: Array) -> GroupRow:
        """Holds each action for `action_repeat` frames."""
        first = self._ended
        # After a lost life the emulator plays on and would obey an action that nobody chose.
        sent = np.where(first, _NOOP, actions)
        # Lists, as the emulator asks an array for its numbers one by one, five times as slowly.
        self._env.ale.send(sent.tolist(), self._strengths)  # type: ignore[arg-type]
        observations, rewards, terminated, truncated, info = self._env.ale.recv()
        self._ended = terminated | truncated
        game_over = self._ended
        if self._options.life_loss_ends_episode:
            game_over = truncated | (terminated & (info["lives"] == 0))
        return GroupRow(
            observations[:, 0],
            np.where(first, 0, rewards).astype(np.float32),
            terminated,
            truncated,
            first,
            self._episodes.add(rewards, game_over),
        )

    def close(self) -> None:
        """Stops the emulator's thread."""
        self._env.close()


def _check_game(game: str) -> None:
    games = {name.replace("_", ""): name for name in roms.get_all_rom_ids()}
    for unplayable in _TWO_PLAYER_GAMES:
        games.pop(unplayable.replace("_", ""), None)
    if game in games.values():
        return
    # "MsPacmanNoFrameskip-v4" and "ALE/MsPacman-v5" mean "ms_pacman".
    stem = re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", game.rsplit("/", 1)[-1])
    matches = difflib.get_close_matches(stem.lower().replace("_", ""), games)
    hint = f"; did you mean {' or '.join(games[match] for match in matches)}?" if matches else ""
    raise InvalidEnvironment(
        f"environment.id: there is no Atari game {game!r} for one player "
        f"(names are in snake_case){hint}"
    )
