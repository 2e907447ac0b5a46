"""Programs of studies beyond reinforcement learning from the first step to the last."""

import pytest
import torch as th

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.sparse import sparse_layers
from sb3_rlx2.studies import expand, read_study
from sb3_rlx2.studies.cloning import demonstrations
from sb3_rlx2.studies.run import make_run
from sb3_rlx2.studies.runner import run_folders
from sb3_rlx2.studies.tickets import winning_ticket
from sb3_rlx2.studies.trained_critic import TrainedCriticGrowth
from sb3_rlx2.studies.training import new_model

yaml = pytest.importorskip("yaml")

SHORT = {"learning_starts": 50, "batch_size": 16, "buffer_size": 1000, "buffer_min_size": 100, "topology_interval": 50}


@pytest.fixture
def runs(tmp_path):
    """Folders of a study's runs, all made."""

    def make(methods, steps=200, **changes):
        path = tmp_path / "study.yml"
        evaluation = {"every": 100, "episodes": 1}
        study = {"environments": ["Pendulum-v1"], "seeds": 1, "steps": steps, "evaluation": evaluation}
        path.write_text(yaml.safe_dump({**study, "hyperparameters": SHORT, "methods": methods, **changes}))
        folders = run_folders(read_study(path), tmp_path)
        for folder in sorted(folders, key=lambda folder: len(folder.settings.after)):
            assert make_run(folder) == 0, (folder.path / "error.txt").read_text()
        return {folder.settings.method: folder for folder in folders}

    return make


@pytest.fixture
def trained():
    model = RLx2TD3(
        "MlpPolicy", "Pendulum-v1", learning_starts=50, n_steps=1, dynamic_buffer=False, seed=0, device="cpu"
    )
    return model.learn(60)


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_growth_by_a_trained_critic_follows_its_gradient_at_every_position(trained, network):
    teacher = RLx2TD3("MlpPolicy", "Pendulum-v1", topology="dense", seed=1, device="cpu")
    rule = TrainedCriticGrowth(seed=3)
    rule.bind(trained, teacher.critic)
    module = getattr(trained, network)
    layers = sparse_layers(module)
    scores = {name: rule.growth_score(layer) for name, layer in layers.items()}
    observations, actions = rule._batch((network, trained.topology_counters[network]["updates"]))
    for layer in layers.values():
        layer.request_dense_grad()
    if network == "actor":
        loss = -teacher.critic.q1_forward(observations, module(observations)).mean()
    else:
        with th.no_grad():
            wanted = th.min(*teacher.critic(observations, actions))
        loss = sum(((value - wanted) ** 2).mean() for value in module(observations, actions))
    loss.backward()
    for name, layer in layers.items():
        th.testing.assert_close(scores[name], layer.dense_grad.abs())


def test_growth_by_a_trained_critic_draws_no_random_numbers_of_the_training(trained):
    rule = TrainedCriticGrowth(seed=3)
    rule.bind(trained, trained.critic)
    layer = next(iter(sparse_layers(trained.actor).values()))
    state = th.get_rng_state()
    assert th.equal(rule.growth_score(layer), rule.growth_score(layer))
    assert th.equal(th.get_rng_state(), state)


def test_a_winning_ticket_has_the_last_connections_with_their_initial_weights(runs):
    ticket = {"algorithm": "rlx2_td3", "config": "ss", "program": "sb3_rlx2.studies.tickets:train", "after": "dynamic"}
    made = runs({"dynamic": {"algorithm": "rlx2_td3", "config": "rigl"}, "ticket": ticket})
    ended, start = RLx2TD3.load(made["dynamic"].model), winning_ticket(made["ticket"])
    begun, dense = new_model(made["dynamic"]), new_model(made["dynamic"], topology="dense")
    for name, layer in sparse_layers(start.policy).items():
        last, first = (sparse_layers(model.policy)[name] for model in (ended, begun))
        assert th.equal(layer.indices, last.indices)
        assert th.equal(layer.values, dense.policy.get_submodule(name).weight.view(-1)[layer.indices.long()])
        assert th.equal(first.values, dense.policy.get_submodule(name).weight.view(-1)[first.indices.long()])
    assert not th.equal(start.actor.mu[2].indices, begun.actor.mu[2].indices)
    assert th.equal(RLx2TD3.load(made["ticket"].model).actor.mu[2].indices, start.actor.mu[2].indices)


def test_cloning_learns_what_the_expert_does_and_evolves_the_topology(runs):
    program = "sb3_rlx2.studies.cloning:train"
    clone = {"algorithm": "rlx2_td3", "config": "rigl", "program": program, "options": {"transitions": 300}}
    static = {**clone, "config": "ss", "after": ["cloned", "expert"], "options": {"transitions": 300, "ticket": True}}
    made = runs(
        {"expert": {"algorithm": "rlx2_td3"}, "cloned": {**clone, "after": "expert"}, "ticket": static}, steps=400
    )
    expert, cloned, ticket = (RLx2TD3.load(made[name].model) for name in ("expert", "cloned", "ticket"))
    states, actions = demonstrations(made["cloned"], expert, 100, 0.1)
    untrained = new_model(made["cloned"])
    with th.no_grad():
        errors = [float(((model.actor(states) - actions) ** 2).mean()) for model in (cloned, ticket, untrained)]
    assert max(errors[:2]) < 0.2 * errors[2]
    assert cloned.topology_counters["actor"] == {"updates": 400, "evolutions": 7}
    assert th.equal(cloned.actor.mu[2].indices, ticket.actor.mu[2].indices)
    assert [row["step"] for row in made["ticket"].rows()] == [100, 200, 300, 400]


def test_demonstrations_come_from_the_environment_in_its_wrappers(runs):
    clone = {"algorithm": "rlx2_td3", "config": "rigl", "program": "sb3_rlx2.studies.cloning:train", "after": "expert"}
    clone["options"] = {"transitions": 60}
    wrapper = {"env_wrapper": "gymnasium.wrappers.TimeAwareObservation"}
    made = runs({"expert": {"algorithm": "rlx2_td3"}, "cloned": clone}, hyperparameters={**SHORT, **wrapper})
    states, _ = demonstrations(made["cloned"], RLx2TD3.load(made["expert"].model), 10, 0.1)
    assert states[:, 3].tolist() == [*range(10)]


def test_normalized_environments_cannot_guide_growth(runs):
    program = {"program": "sb3_rlx2.studies.trained_critic:train", "after": "dense"}
    dense = {"algorithm": "rlx2_td3", "hyperparameters": {"normalize": True}}
    with pytest.raises(AssertionError, match=r"guided cannot grow by the critic of dense: .* dense is normalized"):
        runs({"guided": {"algorithm": "rlx2_td3", **program}, "dense": dense})


@pytest.mark.parametrize("program", ["tickets", "trained_critic", "cloning"])
def test_a_model_that_was_not_restored_is_named(runs, program):
    needed = runs({"needed": {"algorithm": "rlx2_td3"}})["needed"]
    needed.model.unlink()
    own = {"algorithm": "rlx2_td3", "config": "ss", "program": f"sb3_rlx2.studies.{program}:train", "after": "needed"}
    with pytest.raises(
        AssertionError, match=r"needed/seed_0/model\.zip is not there, .* remove .*needed/seed_0 to have"
    ):
        runs({"needed": {"algorithm": "rlx2_td3"}, "next": own})


def test_a_run_grows_by_the_critic_of_the_run_that_it_needs(runs):
    dense = {"topology": "dense", "n_steps": 1, "dynamic_buffer": False}
    made = runs(
        {
            "guided": {
                "algorithm": "rlx2_td3",
                "config": "rigl",
                "program": "sb3_rlx2.studies.trained_critic:train",
                "after": "dense",
            },
            "RigL": {"algorithm": "rlx2_td3", "config": "rigl"},
            "dense": {"algorithm": "rlx2_td3", "hyperparameters": dense},
        }
    )
    guided, rigl = (RLx2TD3.load(made[name].model) for name in ("guided", "RigL"))
    assert guided.topology_counters == rigl.topology_counters
    assert guided.topology_counters["critic"]["evolutions"] >= 2
    ours, theirs = (next(iter(sparse_layers(model.critic).values())) for model in (guided, rigl))
    assert not th.equal(ours.indices, theirs.indices)
    assert len(expand(read_study(made["guided"].path.parents[2] / "study.yml"))) == 3
