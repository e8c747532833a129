"""dbt projects and selections made from a seed, with each kind of node that `dbt build` runs."""

from dataclasses import dataclass, field
from random import Random

import yaml

TAGS = ("daily", "wip_a", "wip_b", "slow")
FOLDERS = ("staging", "marts/gtfs", "marts/gtfs_audit", "stg old")
MATERIALIZED = ("table", "view", "view", "ephemeral", "incremental")
RESOURCE_TYPES = ("model", "seed", "snapshot", "test", "unit_test", "exposure", "function")
INDIRECT = ("eager", "cautious", "buildable", "empty")
GENERIC_TEST = """
{% test one_row(model) %}select * from {{ model }} where id > 1{% endtest %}
"""
FUNCTION = {
    "name": "twice",
    "arguments": [{"name": "n", "data_type": "integer"}],
    "returns": {"data_type": "integer"},
}


@dataclass
class Selection:
    """The options of a `dbt build`, and the variables of its environment."""

    select: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    selector: str | None = None
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


class GeneratedProject:
    """A project of about thirty nodes, as the content of its files.

    The last nodes of a project read its first ones, directly or over several others.
    """

    def __init__(self, seed: int):
        self.random = Random(seed)  # noqa: S311
        # What a node of the project can read, as Jinja.
        self.readable = ["source('raw', 'events')", "source('raw', 'odd name')", "ref('packed')"]
        self.models: list[str] = []
        self.files = {
            "packages.yml": "packages: [{local: ../package}]",
            "../package/dbt_project.yml": "{name: package, version: 1.0.0}",
            "../package/models/packed.sql": "select 1 as id",
            "../package/models/packed.yml": "models: [{name: packed, data_tests: [one_row]}]",
            "../package/macros/one_row.sql": GENERIC_TEST,
            "macros/one_row.sql": GENERIC_TEST,
            "functions/twice.sql": "n * 2",
            "functions/functions.yml": yaml.safe_dump({"functions": [FUNCTION]}),
            "models/empty.sql": "-- a model without SQL",
        }
        self.properties: dict[str, list] = {
            name: [] for name in ("models", "seeds", "sources", "unit_tests", "exposures")
        }
        for number in range(2):
            self._add_seed(f"seed_{number}")
        for number in range(self.random.randint(5, 8)):
            self._add_model(f"m_{number}")
            if number == 2:
                self._add_snapshot()
                self._add_versions()
        for number in range(3):
            self._add_singular_test(f"singular_{number}")
        self._add_others()
        self._add_settings()

    def _is(self, probability: float) -> bool:
        return self.random.random() < probability

    def _some(self, values, most: int) -> list:
        return self.random.sample(values, self.random.randint(0, min(most, len(values))))

    def _tests_and_config(self) -> dict:
        """Return properties of a node: tests of itself and of other nodes, and tags."""
        other = self.random.choice([name for name in self.readable if name.startswith("ref")])
        column_tests = [
            "unique",
            {"not_null": {"config": {"tags": self._some(TAGS, 1), "severity": "warn"}}},
            {"relationships": {"arguments": {"to": other, "field": "id"}}},
        ]
        return {
            "data_tests": self._some(["one_row"], 1),
            "columns": [{"name": "id", "data_tests": self._some(column_tests, 2)}],
            "config": {"tags": self._some(TAGS, 2)},
        }

    def _add_seed(self, name: str) -> None:
        self.files[f"seeds/{name}.csv"] = "id\n1\n"
        self.properties["seeds"].append({"name": name, **self._tests_and_config()})
        self.readable.append(f"ref('{name}')")

    def _add_model(self, name: str) -> None:
        read = self._some(self.readable, 3) + self._some(self.readable[-2:], 1)
        columns = "{{ function('twice') }}(1)" if self._is(0.3) else "1"
        joined = "".join(f" join {{{{ {other} }}}} as t{n} on true" for n, other in enumerate(read))
        self.files[f"models/{self.random.choice(FOLDERS)}/{name}.sql"] = (
            f"select {columns} as id from (select 1 as one) as one{joined}"  # noqa: S608
        )
        properties = {"name": name, **self._tests_and_config()}
        config = properties["config"]
        config["materialized"] = self.random.choice(MATERIALIZED)
        config["enabled"] = self._is(0.9)
        config["meta"] = {"owner": "me"} if self._is(0.3) else {}
        if self._is(0.3):
            config |= {"group": "finance", "access": self.random.choice(["protected", "public"])}
        self.properties["models"].append(properties)
        if config["enabled"]:
            self.readable.append(f"ref('{name}')")
            self.models.append(name)
            if self._is(0.4):
                self._add_unit_test(name, read)

    def _add_unit_test(self, model: str, read: list[str]) -> None:
        given = [{"input": name, "rows": [{"id": 1}]} for name in dict.fromkeys(read)]
        self.properties["unit_tests"].append(
            {
                "name": f"adds_up_{model}",
                "model": model,
                "given": given,
                "expect": {"rows": [{"id": 1}]},
                "config": {"tags": self._some(TAGS, 1)},
            }
        )

    def _add_snapshot(self) -> None:
        relation = self.random.choice([name for name in self.readable if name.startswith("ref")])
        snapshot = {
            "name": "kept",
            "relation": relation,
            "config": {"strategy": "check", "unique_key": "id", "check_cols": "all"},
        }
        self.files["snapshots/kept.yml"] = yaml.safe_dump({"snapshots": [snapshot]})
        self.readable.append("ref('kept')")

    def _add_versions(self) -> None:
        for version in (1, 2):
            read = self.random.choice(self.readable)
            self.files[f"models/many_v{version}.sql"] = f"select 1 as id from {{{{ {read} }}}}"  # noqa: S608
        self.properties["models"].append(
            {
                "name": "many",
                "latest_version": 1,
                "versions": [{"v": 1}, {"v": 2}],
                **self._tests_and_config(),
            }
        )
        self.readable += ["ref('many', v=1)", "ref('many', v=2)"]
        self.models.append("many")

    def _add_singular_test(self, name: str) -> None:
        read = self._some(self.readable, 3)
        lines = [f"-- depends_on: {{{{ {other} }}}}" for other in read]
        tags = self._some(TAGS, 1)
        self.files[f"tests/{name}.sql"] = "\n".join(
            [f"{{{{ config(tags={tags}) }}}}", *lines, "select 1 as id where false"]
        )

    def _add_others(self) -> None:
        refs = [name for name in self.readable if name.startswith("ref")]
        self.properties["exposures"].append(
            {
                "name": "dashboard",
                "type": "dashboard",
                "owner": {"name": "Sales"},
                "depends_on": self.random.sample(refs, 2),
            }
        )
        tables = [
            {"name": "events", "data_tests": ["one_row"], "config": {"tags": ["daily"]}},
            {"name": "odd name"},
        ]
        self.properties["sources"].append({"name": "raw", "tables": tables})
        # dbt keeps a test of a model that does not exist as disabled.
        self.properties["models"].append({"name": "gone", "data_tests": ["one_row"]})
        groups = [{"name": "finance", "owner": {"name": "Finance"}}]
        self.files["models/properties.yml"] = yaml.safe_dump({**self.properties, "groups": groups})

    def _add_settings(self) -> None:
        flags = {"send_anonymous_usage_stats": False}
        if self._is(0.2):
            flags["indirect_selection"] = self.random.choice(INDIRECT)
        settings = {"name": "small", "version": "1.0.0", "profile": "any", "flags": flags}
        self.files["dbt_project.yml"] = yaml.safe_dump(settings)
        chosen = {
            "method": "tag",
            "value": "daily",
            **{name: True for name in ("parents", "children") if self._is(0.4)},
        }
        if self._is(0.5):
            chosen["indirect_selection"] = self.random.choice(INDIRECT)
        excluded = [{"method": "fqn", "value": self.random.choice(self.models)}]
        if self._is(0.5):
            excluded.append({"method": "test_type", "value": "unit"})
        selectors = [
            {"name": "chosen", "definition": chosen},
            {
                "name": "most",
                "default": self._is(0.4),
                "definition": {"union": [{"method": "fqn", "value": "*"}, {"exclude": excluded}]},
            },
            {"name": "both", "definition": {"intersection": ["tag:daily", "path:models+"]}},
        ]
        self.files["selectors.yml"] = yaml.safe_dump({"selectors": selectors})

    def selection(self) -> Selection:
        """Return a selection of the project's nodes."""
        found = Selection()
        if self._is(0.15):
            found.selector = self.random.choice(["chosen", "most", "both"])
        else:
            found.select = [self._word() for _ in range(self.random.choice([0, 1, 1, 2, 3]))]
            found.exclude = [self._word() for _ in range(self.random.choice([0, 0, 1, 2]))]
        if self._is(0.2):
            found.options += ["--indirect-selection", self.random.choice(INDIRECT)]
        if self._is(0.1):
            found.options += ["--exclude-resource-type", self.random.choice(RESOURCE_TYPES)]
        if self._is(0.1):
            for resource_type in self.random.sample(RESOURCE_TYPES, 3):
                found.options += ["--resource-type", resource_type]
        if self._is(0.1):
            found.environment["DBT_EXCLUDE_RESOURCE_TYPES"] = self.random.choice(RESOURCE_TYPES)
        if self._is(0.1):
            found.environment["DBT_INDIRECT_SELECTION"] = self.random.choice(INDIRECT)
        return found

    def _word(self) -> str:
        """Return an entry of select or exclude: an intersection of one or two parts."""
        return ",".join(self._part() for _ in range(self.random.choice([1, 1, 1, 2])))

    def _part(self) -> str:
        name = self.random.choice(self.models)
        method = self.random.choice(
            [
                *(name, name, f"small.*.{name}", f"{name[:-1]}*", "seed_?", "kept", "many"),
                *("tag:daily", "tag:wip*", "tag:slow", f"fqn:{name}", "many.v2", "staging"),
                *("path:models/marts/gtfs", "path:models/staging", "path:seeds", "models/marts"),
                *(f"file:{name}.sql", f"file:{name}", "file:properties.yml", "package:package"),
                *("package:this", "package:small", "source:raw", "source:raw.events", "source:*"),
                *("test_name:unique", "test_name:relationships", "test_type:unit"),
                *("test_type:data", "test_type:generic", "test_type:singular", "singular_1"),
                *("resource_type:model", "resource_type:unit_test", "resource_type:seed"),
                *("resource_type:test", "resource_type:snapshot", "resource_type:exposure"),
                *("config.materialized:view", "config.materialized:incremental"),
                *("config.meta.owner:me", "config.group:finance", "config.severity:warn"),
                *("config.tags:slow", "group:finance", "access:public", "access:protected"),
                *("version:latest", "version:old", "exposure:dashboard", "exposure:*"),
                *("state:new", "state:modified", "state:old", "state:unmodified"),
                *("state:modified.body", f"unit_test:adds_up_{name}", "unit_test:*", "twice"),
                *("selector:chosen", "resource_type:function"),
            ]
        )
        before = self.random.choice(["", "", "", "+", "1+", "2+", "@"])
        after = "" if before == "@" else self.random.choice(["", "", "", "+", "+1", "+2"])
        return f"{before}{method}{after}"
