"""PPO with an LSTM on a task that needs memory, from a loop over steps to one call.

A T-maze: a signal at the first step says whether the exit is left or right; then comes a corridor,
in which only one action is right and each other one costs; at its end the agent turns. Without
memory half of all turns are wrong. Episodes end at different steps in different environments, so
the update needs resets inside a sequence: `reset=` in one call, or with --loop a call for each
step, as it is usually written. Both compute the same. With --forget every step is a reset, which
leaves the agent without memory, for comparison.

    python examples/ppo_memory.py [--loop] [--forget] [--updates 30]

NumPy and PyTorch are all it needs besides elman.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn

import elman

ENVS, STEPS, HIDDEN = 32, 128, 64
EPOCHS, MINIBATCHES = 4, 4
NAMES = ("x", "starts", "actions", "logs", "values", "rewards")  # of what is kept of each step
DISCOUNT, TRACE, CLIP, ENTROPY = 0.98, 0.95, 0.2, 0.01


class Maze:
    """Many T-mazes at once, seen as the signal (-1, 0, 1), whether the junction is here, and 1."""

    def __init__(self, count: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.length, self.place, self.side = (np.zeros(count, int) for _ in range(3))
        self.begin(np.ones(count, bool))

    def begin(self, which: np.ndarray) -> None:
        """Put some agents into new mazes."""
        count = which.sum()
        self.place[which] = 0
        self.length[which] = self.random.integers(5, 13, count)
        self.side[which] = self.random.choice([-1, 1], count)

    def look(self) -> Tensor:
        """Return the observations, (N, 3)."""
        signal = np.where(self.place == 0, self.side, 0)
        junction = self.place == self.length
        return torch.from_numpy(np.stack([signal, junction, np.ones_like(signal)], 1)).float()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Action 0 goes ahead, 1 turns left and 2 right; returns rewards and what has ended."""
        junction = self.place == self.length
        turned = np.where(actions == 1, -1, np.where(actions == 2, 1, 0))
        rewards = np.where(junction, np.where(turned == self.side, 1.0, -1.0), -0.1 * (turned != 0))
        self.place += ~junction & (turned == 0)
        self.begin(junction)
        return rewards, junction


class Agent(nn.Module):
    """An LSTM with a policy and a value upon it."""

    def __init__(self, loop: bool, forget: bool) -> None:
        super().__init__()
        self.loop, self.forget = loop, forget
        self.lstm = elman.LSTM(3, HIDDEN)
        self.policy, self.value = nn.Linear(HIDDEN, 3), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, state: tuple, starts: Tensor) -> tuple:
        """(L, N, 3), the state and where episodes begin (L, N) -> logits, values, the state."""
        if self.forget:
            starts = torch.ones_like(starts)
        if self.loop:
            outputs = []
            for x_t, start in zip(x, starts, strict=True):
                state = tuple((1 - start)[None, :, None] * s for s in state)
                output, state = self.lstm(x_t[None], state)
                outputs.append(output)
            output = torch.cat(outputs)
        else:
            output, state = self.lstm(x, state, reset=starts)
        return self.policy(output), self.value(output).squeeze(-1), state


def collect(agent: Agent, maze: Maze, state: tuple, start: Tensor) -> tuple:
    """Run the agent for STEPS steps -> what happened, how the turns went, and where it stands."""
    seen: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    turns: list[float] = []
    for _ in range(STEPS):
        x = maze.look()
        logits, value, state = agent(x[None], state, start[None])
        choice = torch.distributions.Categorical(logits=logits[0])
        actions = choice.sample()
        rewards, ended = maze.step(actions.numpy())
        turns += list(rewards[ended] > 0)
        now = (
            x,
            start,
            actions,
            choice.log_prob(actions),
            value[0],
            torch.from_numpy(rewards).float(),
        )
        for name, values in zip(seen, now, strict=True):
            seen[name].append(values)
        start = torch.from_numpy(ended).float()
    _, value, _ = agent(maze.look()[None], state, start[None])
    rollout = {name: torch.stack(values) for name, values in seen.items()}
    return rollout, value[0], turns, state, start


def advantages(rollout: dict[str, Tensor], last: Tensor, start: Tensor) -> Tensor:
    """Generalised advantage estimates, (L, N)."""
    values, starts = (
        torch.cat((rollout["values"], last[None])),
        torch.cat((rollout["starts"], start[None])),
    )
    found, total = [], torch.zeros(ENVS)
    for t in range(STEPS)[::-1]:
        goes_on = 1 - starts[t + 1]
        error = rollout["rewards"][t] + DISCOUNT * goes_on * values[t + 1] - values[t]
        total = error + DISCOUNT * TRACE * goes_on * total
        found.append(total)
    return torch.stack(found[::-1])


def learn(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    rollout: dict[str, Tensor],
    gains: Tensor,
    state: tuple,
) -> None:
    """Update on minibatches of environments, each with all its steps."""
    returns = gains + rollout["values"]
    for _ in range(EPOCHS):
        for envs in torch.randperm(ENVS).chunk(MINIBATCHES):
            some = {name: values[:, envs] for name, values in rollout.items()}
            logits, values, _ = agent(some["x"], tuple(s[:, envs] for s in state), some["starts"])
            choice = torch.distributions.Categorical(logits=logits)
            ratio = (choice.log_prob(some["actions"]) - some["logs"]).exp()
            gain = gains[:, envs]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            of_policy = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            of_value = (values - returns[:, envs]).square().mean()
            loss = 0.5 * of_value - of_policy - ENTROPY * choice.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def main(arguments: list[str] | None = None) -> float:
    """Train, print how it goes, and return the part of right turns at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", action="store_true", help="call the LSTM once for each step")
    parser.add_argument("--forget", action="store_true", help="start anew at every step")
    parser.add_argument("--updates", type=int, default=30)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network gains nothing by more
    agent, maze = Agent(options.loop, options.forget), Maze(ENVS, seed=0)
    optimizer = torch.optim.Adam(agent.parameters(), 2e-3)
    state, start = tuple(torch.zeros(1, ENVS, HIDDEN) for _ in "hc"), torch.ones(ENVS)
    right, begun, learning = 0.0, time.perf_counter(), 0.0
    for update in range(1, options.updates + 1):
        before = state
        with torch.no_grad():
            rollout, last, turns, state, start = collect(agent, maze, before, start)
        since = time.perf_counter()
        learn(agent, optimizer, rollout, advantages(rollout, last, start), before)
        learning += time.perf_counter() - since
        right = sum(turns) / max(1, len(turns))
        if update % 10 == 0 or update == options.updates:
            frames, seconds = update * ENVS * STEPS, time.perf_counter() - begun
            print(
                f"update {update:4}  right turns {right:4.0%}  {frames / seconds:7,.0f} frames/s  "
                f"of the update alone {frames / learning:7,.0f}"
            )
    return right


if __name__ == "__main__":
    main()
