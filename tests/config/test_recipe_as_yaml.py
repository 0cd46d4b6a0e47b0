"""A recipe written back runs the same again."""

from posttrain.config.recipe import load_recipe, parse_recipe
from posttrain.recipes import built_in_recipes


def test_a_recipe_and_its_overrides_survive_being_written(tmp_path):
    for path in built_in_recipes().values():
        recipe = load_recipe(path, ["sft.learning_rate=0.5", "seed=7", f"output_dir={tmp_path}"])
        again = parse_recipe(recipe.to_yaml(), "again")
        assert (again.name, again.seed, again.output_dir) == (recipe.name, 7, str(tmp_path))
        assert [(s.name, s.method, dict(s.values)) for s in again.stages] == [
            (s.name, s.method, dict(s.values)) for s in recipe.stages
        ]
        assert again.stage("sft").values["learning_rate"] == 0.5


def test_a_token_is_not_written_down():
    text = "stages:\n- {name: a, method: sft, model: m, train_dataset: d, push_to_hub: true}\n"
    given = ["a.hub_token=hf_secret", "a.model_init_kwargs={token: hf_secret, revision: main}"]
    recipe = parse_recipe(text, "recipe", given)
    fields = recipe.stage("a").resolve({})
    assert fields.hub_token == fields.model_init_kwargs["token"] == "hf_secret"
    assert "hf_secret" not in recipe.to_yaml() + fields.to_yaml()
    assert fields.to_dict()["model_init_kwargs"] == {"revision": "main"}
    assert "revision: main" in recipe.to_yaml()
