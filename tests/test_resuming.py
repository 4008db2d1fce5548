"""The keeper: what a file belongs to, what it refuses before anything is overwritten, and the last good state."""

import io
import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import drawn, equal, seeded
from torch import nn

from dnet_lib import (
    CheckpointError,
    CoarseGaussian,
    Corrupted,
    Data,
    DescriptorNet,
    DivergedError,
    Fresh,
    GeneratorNet,
    Noise,
    Persistent,
    PersistentData,
    Run,
    Settings,
    Teaching,
    learn,
    noise,
)
from dnet_lib.baselines.denoiser import AutoEncoder, learn_to_denoise
from dnet_lib.energy import Architecture
from dnet_lib.generator import Alternation, Layout, alternate
from dnet_lib.judges import ViewNet, fit
from dnet_lib.resuming import Parts, fingerprint, read_state, resumable

DATA = drawn(6, 4, 0.4) - 0.4
SETTINGS = Settings(6, 2, 0.02, batch_size=4)
LAYOUT = Layout(4, 3, (4,), (1, 2), 3, batch_norm=False)


def net(channels: int = 4, activation: str = "silu") -> DescriptorNet:
    return DescriptorNet(Architecture(4, ((channels, 3, 2),), activation), weight_std=0.05, generator=seeded())


def chains(count: int = 5) -> Persistent:
    return Persistent(noise(count, 4, generator=seeded(3)))


def begin(settings: Settings = SETTINGS, starts=None, seed: int = 0, **changed) -> Run:
    return Run.begin(net(**changed), starts or chains(), settings, seed=seed)


def sgd() -> Run:
    own = net()
    return Run(own, chains(), torch.optim.SGD(own.parameters(), momentum=0.9), seeded())


def part(run: Run, name: str) -> Run:
    """A run that learns only some of its network's weights."""
    chosen = [p for own, p in run.net.named_parameters() if own.startswith(name)]
    return Run.begin(run.net, run.starts, SETTINGS, parameters=chosen)


OTHERS = {
    "network": lambda: (begin(channels=5), DATA, SETTINGS),
    "starts: Persistent": lambda: (begin(starts=Noise(5)), DATA, SETTINGS),
    "chains are": lambda: (begin(starts=chains(12)), DATA, SETTINGS),
    "renew": lambda: (begin(starts=replace(chains(), renew=0.1)), DATA, SETTINGS),
    "data": lambda: (begin(), DATA + 0.1, SETTINGS),
    "data: (6, ": lambda: (begin(), DATA[:5], SETTINGS),
    "seed: 0": lambda: (begin(seed=1), DATA, SETTINGS),
    "optimizer: Adam, not SGD": lambda: (sgd(), DATA, SETTINGS),
    "network: DescriptorNet": lambda: (begin(activation="relu"), DATA, SETTINGS),
    "learned: 4 parameters": lambda: (part(begin(), "layers"), DATA, SETTINGS),
    "average: False": lambda: (begin(replace(SETTINGS, average=0.9)), DATA, replace(SETTINGS, average=0.9)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_run_is_refused_before_anything_changes(what, tmp_path):
    path = tmp_path / "mine.pt"
    list(learn(begin(), DATA, SETTINGS, checkpoint=path))
    content = path.read_bytes()
    run, data, settings = OTHERS[what]()
    before = run.state_dict()
    with pytest.raises(CheckpointError, match=r"mine\.pt is the checkpoint of another run.*give this run") as caught:
        next(learn(run, data, settings, checkpoint=path))
    assert what in str(caught.value)
    assert equal(run.state_dict(), before), "the run was touched"
    assert path.read_bytes() == content, "the file was touched"


def test_numbers_are_the_same_by_any_type(tmp_path):
    """NumPy's and Python's, 1 and 1.0: no other run; other values of them: another."""
    path = tmp_path / "mine.pt"
    list(learn(begin(starts=Noise(4, 1)), DATA, SETTINGS, checkpoint=path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for starts in (Noise(np.int64(4), 1.0), Noise(4, np.float32(1))):
            assert list(learn(begin(starts=starts), DATA, SETTINGS, checkpoint=path)) == []
    for starts in (Noise(np.int64(8)), Noise(4, np.float32(0.5))):
        with pytest.raises(CheckpointError, match="another run"):
            next(learn(begin(starts=starts), DATA, SETTINGS, checkpoint=path))
    assert Run.begin(begin().net, Noise(4), SETTINGS, seed=np.int64(3)).generator.initial_seed() == 3


def test_the_state_of_chains_that_started_otherwise_is_refused_whole():
    persistent, fresh = begin(starts=chains()), begin(starts=Noise(4))
    for run, other in ((persistent, fresh), (fresh, persistent)):
        before = run.state_dict()
        with pytest.raises(CheckpointError, match="the state of another run"):
            run.load_state_dict(other.state_dict())
        assert equal(run.state_dict(), before)


def test_what_may_change_is_said_once_and_obeyed(tmp_path):
    path = tmp_path / "mine.pt"
    list(learn(begin(), DATA, SETTINGS, checkpoint=path))
    longer = replace(SETTINGS, num_iterations=8, learning_rate=0.5)
    run = begin(longer)
    with pytest.warns(
        UserWarning, match=r"goes on with other settings: num_iterations 8 \(before: 6\), learning_rate 0"
    ):
        assert [r.iteration for r in learn(run, DATA, longer, checkpoint=path)] == [7, 8]
    assert run.optimizer.param_groups[0]["lr"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(learn(begin(longer), DATA, longer, checkpoint=path)) == []


def other() -> Run:
    """The run of `begin` with first weights of another seed."""
    run = begin()
    run.net.load_state_dict(DescriptorNet(run.net.architecture, weight_std=0.05, generator=seeded(1)).state_dict())
    return run


def test_first_weights_that_a_checkpoint_did_not_begin_with_are_said_once(tmp_path):
    """The file's weights win; the net that learned last, and the very same first weights, go on in silence."""
    path, longer, whole = tmp_path / "mine.pt", replace(SETTINGS, num_iterations=6), begin()
    short = replace(SETTINGS, num_iterations=3)
    averaged = replace(short, average=0.9)
    list(learn(whole, DATA, SETTINGS))
    list(learn(begin(), DATA, short, checkpoint=path))
    list(learn(begin(averaged), DATA, averaged, checkpoint=tmp_path / "averaged.pt"))
    with pytest.warns(UserWarning) as said:
        run = other()
        list(learn(run, DATA, longer, checkpoint=path))
    told = [str(w.message) for w in said if "goes on with the weights that it holds: this" in str(w.message)]
    assert len(told) == 1 and "mine.pt" in told[0] and equal(run.net.state_dict(), whole.net.state_dict())
    kept = begin(averaged)
    kept.load_state_dict(read_state(tmp_path / "averaged.pt")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(learn(begin(), DATA, longer, checkpoint=path))  # it still knows what it began with
        list(learn(Run.begin(run.net, chains(), longer), DATA, longer, checkpoint=path))  # the net that learned last
        list(
            learn(
                Run.begin(kept.kept.requires_grad_(), chains(), averaged),
                DATA,
                averaged,
                checkpoint=tmp_path / "averaged.pt",
            )
        )


def test_a_run_with_iterations_of_its_own_is_not_replaced_by_a_strangers_file_nor_replaces_it(tmp_path):
    path = tmp_path / "mine.pt"
    list(learn(begin(), DATA, replace(SETTINGS, num_iterations=3), checkpoint=path))
    content = path.read_bytes()
    for done in (2, 3, 4):
        run = other()
        list(learn(run, DATA, replace(SETTINGS, num_iterations=done)))
        before = run.state_dict()
        with pytest.raises(CheckpointError, match=rf"mine\.pt is the checkpoint of another run .*has done {done} iter"):
            next(learn(run, DATA, SETTINGS, checkpoint=path))
        assert equal(run.state_dict(), before) and path.read_bytes() == content
    again = begin()
    again.load_state_dict(read_state(path)[0])  # a state knows where it comes from
    assert len(list(learn(again, DATA, SETTINGS, checkpoint=path))) == 3


def test_iterations_that_led_elsewhere_are_not_dropped_in_silence(tmp_path):
    """The very same iterations without a file lead to what the file holds, and nothing is said."""
    path, short = tmp_path / "mine.pt", replace(SETTINGS, num_iterations=3)
    list(learn(begin(), DATA, short, checkpoint=path))
    same, run = begin(), begin()
    list(learn(same, DATA, short))
    list(learn(run, DATA, replace(short, num_iterations=2, learning_rate=0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(learn(same, DATA, short, checkpoint=path)) == []
    with pytest.warns(UserWarning, match=r"from its own iteration 3: this run's 2 iterations led elsewhere"):
        list(learn(run, DATA, short, checkpoint=path))


def averaging(count: int = 5) -> Run:
    return begin(replace(SETTINGS, average=0.9), chains(count))


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (begin, averaging, "one keeps an average of its weights"),
        (averaging, begin, "one keeps an average of its weights"),
        (averaging, lambda: averaging(4), r"its chains are \(4, .*and these are \(5"),
        (averaging, lambda: begin(replace(SETTINGS, average=0.9), channels=5), "size mismatch"),
        (begin, lambda: part(begin(), "layers"), "parameter group"),
    ],
)
def test_the_state_of_another_kind_of_run_leaves_a_run_as_it_was(ours, theirs, why):
    source, run = theirs(), ours()
    list(learn(source, DATA, replace(SETTINGS, average=0.9 if source.averaged else None)))
    before = run.state_dict()
    for state in (source.state_dict(), {}):
        with pytest.raises(CheckpointError, match=f"this is the state of another run .*{why if state else 'holds no'}"):
            run.load_state_dict(state)
        assert equal(run.state_dict(), before)


def test_a_run_begun_and_restored_in_inference_mode_learns_on():
    settings = replace(SETTINGS, average=0.9)
    whole, own = begin(settings), net()
    list(learn(whole, DATA, settings))
    with torch.inference_mode():
        run = Run.begin(own, chains(), settings)
    list(learn(run, DATA, replace(settings, num_iterations=3)))
    with torch.inference_mode():
        run.load_state_dict(run.state_dict())
    list(learn(run, DATA, settings))
    assert equal(run.state_dict(), whole.state_dict())


def test_a_teachers_student_of_other_first_weights_is_said(tmp_path):
    settings, path = replace(SETTINGS, num_iterations=1), tmp_path / "mine.pt"

    def once(seed: int) -> None:
        student = GeneratorNet(LAYOUT, generator=seeded(seed))
        list(learn(begin(starts=Teaching.begin_with(student, 0.4, num_chains=3)), DATA, settings, checkpoint=path))

    once(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once(0)
    with pytest.warns(UserWarning, match="neither those nor those it began with"):
        once(1)


def test_weights_unfrozen_after_a_run_began_are_said_once_and_those_left_out_are_not():
    own = net()
    own.layers.requires_grad_(False)
    run, before = Run.begin(own, chains(), SETTINGS), own.layers[0].weight.clone()
    with pytest.warns(
        UserWarning, match=r"^layers\.0\.bias, layers\.0\.weight did not require.*add_param_group"
    ) as said:
        for record in learn(run, DATA, SETTINGS):
            own.layers.requires_grad_(record.iteration > 1)
    assert len(said) == 1 and torch.equal(own.layers[0].weight, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(learn(part(begin(), "dense"), DATA, SETTINGS))  # that is meant
        run.optimizer.add_param_group({"params": own.layers.parameters()})
        list(learn(run, DATA, replace(SETTINGS, num_iterations=8)))
    assert not torch.equal(own.layers[0].weight, before)


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_a_restored_run_obeys_its_settings(rate):
    """The optimizer's state brings the old rate back; the settings win."""
    run = begin()
    list(learn(run, DATA, replace(SETTINGS, learning_rate=0.1)))
    again = begin()
    again.load_state_dict(run.state_dict())
    weights = [p.clone() for p in again.net.parameters()]
    calm = replace(SETTINGS, num_iterations=8, learning_rate=rate, betas=(0.0, 0.5))
    list(learn(again, DATA, calm))
    moved = max((p - w).abs().max().item() for p, w in zip(again.net.parameters(), weights, strict=True))
    assert moved <= 2 * rate * 2 and again.optimizer.param_groups[0]["betas"] == (0.0, 0.5)


@pytest.mark.parametrize("offset", range(8))
def test_a_flipped_bit_is_found(offset, tmp_path):
    path = tmp_path / "mine.pt"
    list(learn(begin(), DATA, SETTINGS, checkpoint=path))
    content = bytearray(path.read_bytes())
    place = random.Random(offset).randrange(len(content))
    content[place] ^= 1 << offset
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"mine\.pt (is damaged|cannot be read)"):
        next(learn(begin(), DATA, SETTINGS, checkpoint=path))
    assert path.read_bytes() == content


def test_a_file_of_an_earlier_version_is_refused_by_name(tmp_path):
    path, buffer = tmp_path / "old.pt", io.BytesIO()
    torch.save([begin().state_dict()], buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"old\.pt was written by an earlier version"):
        next(learn(begin(), DATA, SETTINGS, checkpoint=path))


@pytest.mark.parametrize("content", [[1, 2], [], {"a": 1}, [{"a": 1}], torch.zeros(2)], ids=str)
def test_any_other_file_of_torch_is_no_checkpoint_and_not_to_be_deleted(content, tmp_path):
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=r"mine\.pt is a file of torch\.save, but no checkpoint.*another file$"):
        next(learn(begin(), DATA, SETTINGS, checkpoint=tmp_path / "mine.pt"))


def test_breaking_off_between_saves_does_not_roll_back(tmp_path):
    """In the same process the run itself is further than its file, and goes on from where it stands."""
    whole, run = begin(), begin()
    values = [r.value for r in learn(whole, DATA, SETTINGS)]
    seen = []
    for stop in (3, 5, None):
        for record in learn(run, DATA, SETTINGS, checkpoint=tmp_path / "run.pt", save_every=4):
            seen.append((record.iteration, record.value))
            if record.iteration == stop:
                break
    assert seen == list(enumerate(values, 1))
    assert equal(read_state(tmp_path / "run.pt")[0], whole.state_dict())


@pytest.mark.parametrize("kind", ["judge", "auto-encoder"])
def test_other_learners_know_their_files_too(kind, tmp_path):
    path = tmp_path / "mine.pt"
    y, labels = torch.rand(8, 1, 8, 8, 8, generator=seeded()).round(), torch.arange(8) % 2
    held_out = torch.arange(8) >= 6

    def once(shapes: torch.Tensor, seed: int = 0):
        torch.manual_seed(0)
        if kind == "judge":
            net = ViewNet(2)
            options = {"num_epochs": 2, "batch_size": 4, "seed": seed, "checkpoint": path}
            return list(fit(net, shapes, labels, held_out, **options))
        return list(learn_to_denoise(AutoEncoder(), shapes, num_iterations=3, batch_size=2, seed=seed, checkpoint=path))

    first = once(y)
    again = once(y)
    assert again == (first if kind == "judge" else [])  # a judge first yields the epochs it remembers
    with pytest.raises(CheckpointError, match="data"):
        once(1 - y)
    with pytest.raises(CheckpointError, match="seed"):
        once(y, seed=1)


def test_learning_goes_on_after_divergence_from_the_last_good_state(tmp_path):
    """The run itself, and its file, stand there: the same call with a lower rate goes on."""
    mad = replace(SETTINGS, learning_rate=lambda iteration: 1e-3 if iteration < 4 else 1e30)
    run, path = begin(), tmp_path / "run.pt"
    with pytest.raises(DivergedError) as caught:
        list(learn(run, DATA, mad, checkpoint=path, save_every=2))
    assert equal(run.state_dict(), caught.value.state) and equal(read_state(path)[0], caught.value.state)
    calm = replace(SETTINGS, learning_rate=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        *_, last = learn(run, DATA, calm, checkpoint=path, save_every=2)
    whole = begin()
    list(learn(whole, DATA, calm))
    assert last.iteration == 6 and equal(run.state_dict(), whole.state_dict())


def test_a_run_that_diverges_at_once_names_a_file_that_is_there(tmp_path):
    mad = replace(SETTINGS, step_size=1e30)
    with pytest.raises(DivergedError) as caught:
        list(learn(begin(mad), DATA, mad, checkpoint=tmp_path / "run.pt"))
    assert equal(read_state(caught.value.checkpoint)[0], caught.value.state)
    bad = chains()
    bad.chains /= 0
    with pytest.raises(DivergedError, match="its chains' start is not finite"):
        list(learn(begin(starts=bad), DATA, SETTINGS))


class Odd(Data):
    """A start that remembers what a file cannot hold."""

    def state_dict(self):
        return {"numbers": np.arange(3)}


def test_a_state_that_no_file_can_give_back_is_refused_at_once(tmp_path):
    with pytest.raises(CheckpointError, match="'starts' of this run's state cannot be read back"):
        next(learn(begin(starts=Odd()), DATA, SETTINGS, checkpoint=tmp_path / "run.pt"))
    assert not list(tmp_path.iterdir())
    rates = (np.float64(1e-3), lambda iteration: 1e-3 * np.cos(iteration / 10))
    for k, rate in enumerate(rates):  # NumPy's numbers as rates are made plain
        settings = replace(SETTINGS, learning_rate=rate)
        list(learn(begin(settings), DATA, settings, checkpoint=tmp_path / f"{k}.pt"))
        assert list(learn(begin(settings), DATA, settings, checkpoint=tmp_path / f"{k}.pt")) == []


class Counting(Noise):
    """A start of the user's with a counter of its own, which is no setting."""

    calls = 0

    def begin(self, *arguments):
        object.__setattr__(self, "calls", self.calls + 1)
        return super().begin(*arguments)


class Slotted:
    """A start without a base and without a dictionary."""

    __slots__ = ()

    def begin(self, observed, index, generator):
        return observed.clone(), None

    def learn(self, revised):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("starts", [Counting(4), Slotted()], ids=["counter", "slots"])
def test_starts_of_the_users_own_resume(starts, tmp_path):
    run = begin(starts=starts)
    for stop in (3, None):
        for record in learn(run, DATA, SETTINGS, checkpoint=tmp_path / "run.pt", save_every=1):
            if record.iteration == stop:
                break
    assert run.iteration == 6


def test_a_start_that_is_none_is_named():
    class Half:
        def begin(self, observed, index, generator):
            return observed, None

    with pytest.raises(TypeError, match=r"a start needs `learn`: make Half a subclass of dnet_lib\.Starts"):
        next(learn(begin(starts=Half()), DATA, SETTINGS))


def test_the_average_must_be_meant_at_both_ends():
    averaging = replace(SETTINGS, average=0.9)
    for begun, learned in ((SETTINGS, averaging), (averaging, SETTINGS)):
        with pytest.raises(ValueError, match="give `average` at both or at neither"):
            next(learn(begin(begun), DATA, learned))


def test_an_optimizer_keeps_its_own_options_when_it_resumes(tmp_path):
    def with_decay(decay: float) -> Run:
        own = net()
        return Run.begin(own, chains(), SETTINGS, parameters=[{"params": own.parameters(), "weight_decay": decay}])

    first = with_decay(10.0)
    list(learn(first, DATA, replace(SETTINGS, num_iterations=3), checkpoint=tmp_path / "run.pt"))
    second = with_decay(0.0)
    with pytest.warns(UserWarning, match="num_iterations"):
        list(learn(second, DATA, SETTINGS, checkpoint=tmp_path / "run.pt"))
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.0]


def one_group(**options) -> Run:
    own = net()
    return Run.begin(own, chains(), SETTINGS, parameters=[{"params": own.parameters()} | options])


def taught(rate: float) -> Run:
    return begin(starts=Teaching.begin_with(GeneratorNet(LAYOUT, generator=seeded()), 0.4, learning_rate=rate))


CHANGES = {
    r"weight_decay of group 0 0\.5 \(before: 0\.25\)$": lambda new: (
        one_group(weight_decay=0.5 if new else 0.25),
        SETTINGS,
    ),
    r"lr of group 0 0\.5 \(before: None\)$": lambda new: (one_group(**({"lr": 0.5} if new else {})), SETTINGS),
    r"lr of the starts' group 0 0\.5 \(before: 0\.25\)$": lambda new: (taught(0.5 if new else 0.25), SETTINGS),
    r"lambda> \(0\.0 at iteration 2\) \(before: .*lambda> \(0\.1 at iteration 2\)\)$": lambda new: (
        begin(),
        replace(SETTINGS, learning_rate=(lambda i: 0.0) if new else (lambda i: 0.1)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_number_that_changed_is_said(change, tmp_path):
    def once(new: bool) -> None:
        run, settings = CHANGES[change](new)
        for record in learn(run, DATA, settings, checkpoint=tmp_path / "run.pt", save_every=1):
            if record.iteration == 4 and not new:
                break  # the file holds 3 iterations

    once(False)
    with pytest.warns(UserWarning, match=f"goes on with other settings: .*{change}") as said:
        once(True)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once(True)


def test_memory_that_an_optimizer_never_had_is_not_read(tmp_path):
    path = tmp_path / "run.pt"
    list(learn(one_group(), DATA, SETTINGS, checkpoint=path))
    with (
        pytest.raises(CheckpointError, match=r"of another run \(its optimizer learned without amsgrad\)"),
        pytest.warns(UserWarning, match="amsgrad of group 0 True"),
    ):
        next(learn(one_group(amsgrad=True), DATA, SETTINGS, checkpoint=path))
    assert len(list(learn(one_group(amsgrad=True), DATA, SETTINGS))) == 6


# -- the loop itself ---------------------------------------------------------------------------------------------------


def counted(fails_at: int | None = None):
    """A run that counts, and diverges when it comes to a number."""
    torch.manual_seed(0)
    run = Parts(generator=seeded(), value=torch.zeros(()), net=nn.Linear(1, 1))

    def step() -> int:
        run.value = run.value + torch.randint(10, (), generator=run.generator)
        if run.iteration == fails_at:
            raise DivergedError("it broke")
        run.iteration += 1
        return run.iteration

    return run, step


@pytest.mark.parametrize("late", [True, False])
def test_late_states_are_written_an_iteration_later(late, tmp_path):
    run, step = counted()
    written = {}
    for done in resumable(run, step, 7, checkpoint=tmp_path / "r.pt", save_every=3, late=late):
        path = tmp_path / "r.pt"
        written[done] = read_state(path)[0]["iteration"] if path.exists() else None
    late_ones = {1: 0, 2: 0, 3: 0, 4: 3, 5: 3, 6: 3, 7: 7}
    assert written == (late_ones if late else {1: None, 2: None, 3: 3, 4: 3, 5: 3, 6: 6, 7: 7})


@pytest.mark.parametrize("fails_at", [0, 1, 4, 6])
def test_a_diverged_step_gets_the_last_good_state(fails_at, tmp_path):
    run, step = counted(fails_at)
    with pytest.raises(DivergedError, match=r"it broke\. The last good state, of iteration \d, is in") as caught:
        list(resumable(run, step, 9, checkpoint=tmp_path / "r.pt", save_every=3))
    good = caught.value.state["iteration"]
    assert good == max(3 * ((fails_at - 1) // 3), 0)
    other, step = counted()
    other.load_state_dict(caught.value.state)
    whole, all_steps = counted()
    list(resumable(whole, all_steps, good))
    assert equal(other.state_dict(), whole.state_dict())


def test_fingerprints_tell_tensors_apart():
    y = torch.rand(3, 4)
    prints = [fingerprint(t) for t in (y, y.T, y.double(), y.view(4, 3), y + 1e-7, y[:2])]
    assert len(set(prints)) == len(prints) and fingerprint(y.clone()) == prints[0]
    assert fingerprint(y.bfloat16()) != fingerprint(y)


def test_starts_of_every_kind_name_themselves():
    gaussian = CoarseGaussian.fit(DATA, 2, rank=2)
    kinds = [Noise(3), Data(), chains(), PersistentData(DATA), Corrupted(0.3), Corrupted(0.4), Fresh(gaussian, 3)]
    names = [begin(starts=starts).belongs(DATA)["starts"] for starts in kinds]
    assert len(set(names)) == len(names)


def test_nothing_but_the_file_is_left(tmp_path):
    list(learn(begin(), DATA, SETTINGS, checkpoint=tmp_path / "a" / "run.pt", save_every=1))
    assert [path.name for path in Path(tmp_path / "a").iterdir()] == ["run.pt"]


# -- a step is done wholly or not at all -------------------------------------------------------------------------------


class Stops(Persistent):
    """Chains that Ctrl-C interrupts: as they begin, and after the weights have moved."""

    where, calls = "", 0

    def begin(self, *given):
        begun = super().begin(*given)
        self.maybe("begin")
        return begun

    def learn(self, revised):
        self.maybe("learn")
        super().learn(revised)

    def maybe(self, where: str) -> None:
        self.calls += where == self.where
        if where == self.where and self.calls == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["begin", "learn"])
def test_a_step_that_is_interrupted_was_not_begun(where):
    """In the same process the run goes on as if nothing had been: the same numbers to the bit."""
    whole = begin(starts=Stops(noise(5, 4, generator=seeded(3)), renew=0.2))
    list(learn(whole, DATA, SETTINGS))
    run = begin(starts=Stops(noise(5, 4, generator=seeded(3)), renew=0.2))
    run.starts.where = where
    with pytest.raises(KeyboardInterrupt):
        list(learn(run, DATA, SETTINGS))
    assert run.iteration == 3
    assert [record.iteration for record in learn(run, DATA, SETTINGS)] == [4, 5, 6]
    assert equal(run.state_dict(), whole.state_dict())


def test_a_rate_that_turns_negative_is_named_and_nothing_is_done():
    settings = replace(SETTINGS, learning_rate=lambda iteration: 0.01 - 0.004 * iteration)
    run = begin(settings)
    with pytest.raises(ValueError, match=r"learning rate of iteration 3 must be at least 0 and finite, not -0\.00"):
        list(learn(run, DATA, settings))
    assert run.iteration == 3
    assert len(list(learn(run, DATA, SETTINGS))) == 3, "another rate goes on from there"


def test_a_finished_run_that_gets_a_file_writes_it(tmp_path):
    run = begin()
    list(learn(run, DATA, SETTINGS))
    assert list(learn(run, DATA, SETTINGS, checkpoint=tmp_path / "late.pt")) == []
    assert equal(read_state(tmp_path / "late.pt")[0], run.state_dict())


# -- every learner obeys what it is told now ---------------------------------------------------------------------------


def test_a_generator_alone_obeys_a_new_rate(tmp_path):
    student, path = GeneratorNet(LAYOUT, generator=seeded()), tmp_path / "run.pt"
    list(alternate(student, DATA + 0.4, Alternation(2, 1, batch_size=3, learning_rate=0.1), checkpoint=path))
    again = GeneratorNet(LAYOUT, generator=seeded())
    with pytest.warns(UserWarning, match=r"num_iterations 3 \(before: 2\), learning_rate 0\.0 \(before: 0\.1\)"):
        list(alternate(again, DATA + 0.4, Alternation(3, 1, batch_size=3, learning_rate=0.0), checkpoint=path))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), student.parameters(), strict=True))


def test_a_student_obeys_a_new_rate():
    taught = [Teaching.begin_with(GeneratorNet(LAYOUT, generator=seeded()), 0.4, learning_rate=r) for r in (0.1, 0.0)]
    run = begin(starts=taught[0])
    list(learn(run, DATA, SETTINGS))
    again = begin(starts=taught[1])
    again.load_state_dict(run.state_dict())
    list(learn(again, DATA, replace(SETTINGS, num_iterations=8)))
    nets = [teaching.proposals.net for teaching in taught]
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@pytest.mark.parametrize("kind", ["judge", "auto-encoder"])
def test_others_that_diverge_say_so_and_keep_what_was_good(kind, tmp_path):
    shapes = drawn(8, 8 if kind == "judge" else 16)
    torch.manual_seed(0)
    learner = ViewNet(2) if kind == "judge" else AutoEncoder()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    labels, held_out = torch.arange(8) % 2, torch.arange(8) < 2
    options = {"learning_rate": 1e30, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(DivergedError, match=r"diverged.*lower the learning rate.*last good state, of iteration 0"):
        if kind == "judge":
            list(fit(learner, shapes, labels, held_out, num_epochs=4, batch_size=2, **options))
        else:
            list(learn_to_denoise(learner, shapes, num_iterations=40, **options))
    assert equal(dict(learner.state_dict()), before)


# -- places ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_named_before_the_first_iteration(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Noise, "begin", lambda *given: seen.append(given))
    with pytest.raises(CheckpointError, match="is a folder: name a file in it"):
        next(learn(begin(starts=Noise(3)), DATA, SETTINGS, checkpoint=tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file"):
        next(learn(begin(starts=Noise(3)), DATA, SETTINGS, checkpoint=tmp_path / "file" / "run.pt"))
    assert not seen


def test_memory_that_is_short_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    list(learn(begin(), DATA, SETTINGS, checkpoint=path))

    def short(*given, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(MemoryError, match="no room"):
        read_state(path)


def test_a_strangers_file_is_not_called_to_be_deleted(tmp_path):
    for content in (b"my notes", b"PK", b""):
        (tmp_path / "mine.txt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"mine\.txt cannot be read as the checkpoint .*: name another file"):
            read_state(tmp_path / "mine.txt")


def test_a_new_group_of_an_optimizer_follows_the_settings():
    run = begin()
    own = list(run.net.dense.parameters())
    run.net.dense.requires_grad_(False)
    run = Run.begin(run.net, chains(), SETTINGS)
    run.optimizer.add_param_group({"params": [parameter.requires_grad_() for parameter in own]})
    before = own[0].clone()
    list(learn(run, DATA, SETTINGS))
    assert not torch.equal(own[0], before) and run.optimizer.param_groups[1]["lr"] == SETTINGS.learning_rate


@pytest.mark.parametrize("begun", [False, True])
def test_a_new_group_of_an_optimizer_keeps_what_it_has_of_its_own(begun, tmp_path):
    """Added before or after the first step, and resumed: a rate of zero, and the optimizer's own default rate."""
    own = net()
    own.requires_grad_(False)
    own.dense.requires_grad_()
    steep = replace(SETTINGS, learning_rate=0.01)
    run = Run.begin(own, chains(), steep)
    if begun:
        next(learn(run, DATA, steep))
    still, slow = (own.layers[0].weight.requires_grad_(), own.layers[0].bias.requires_grad_())
    for parameter, rate in ((still, 0.0), (slow, 1e-3)):
        run.optimizer.add_param_group({"params": [parameter], "lr": rate})
    before, bias = still.clone(), slow.clone()
    run.load_state_dict(run.state_dict())
    list(learn(run, DATA, steep, checkpoint=tmp_path / "run.pt"))
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.01, 0.0, 1e-3]
    assert torch.equal(still, before) and not torch.equal(slow, bias)


def test_an_optimizer_of_fewer_groups_may_take_the_place_of_the_first():
    own = net()
    run = Run.begin(
        own, chains(), SETTINGS, parameters=[{"params": own.layers.parameters()}, {"params": own.dense.bias}]
    )
    run.optimizer = torch.optim.SGD(own.parameters(), lr=0.5)
    list(learn(run, DATA, SETTINGS))
    assert [group["lr"] for group in run.optimizer.param_groups] == [SETTINGS.learning_rate]
