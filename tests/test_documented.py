from documented import alike, blocks_of, files_of, parted, with_options

PAGE = """
```bash
# a comment
lesionforge split --store a \\
    --out b        # why
lesionforge recipes x > y.yaml
```

```text
train   3,600   1.5 s
```

```yaml
# a.yaml
name: b
```

```python
lesionforge
```

1. in a list

   ```bash
   lesionforge models
   ```
"""


def test_commands_are_read_with_their_output() -> None:
    block, in_list = blocks_of(PAGE)
    assert in_list.commands == [["lesionforge", "models"]]
    assert block.commands == [
        ["lesionforge", "split", "--store", "a", "--out", "b"],
        ["lesionforge", "recipes", "x", ">", "y.yaml"],
    ]
    assert block.output == ["train   3,600   1.5 s"]
    assert parted(block.commands[1]) == (["lesionforge", "recipes", "x"], "y.yaml")


def test_files_are_read_by_the_name_in_their_first_line() -> None:
    assert files_of(PAGE) == {"a.yaml": "# a.yaml\nname: b\n"}


def test_options_are_set_anew() -> None:
    words = ["train", "--out", "o", "--data.mix.benign", "all", "--hardware.compile", "--x=1"]
    changes = {"--data.mix.benign": ["5"], "--hardware.compile": None, "--x": ["2"], "--new": ["1", "2"]}
    assert with_options(words, changes) == [
        "train",
        "--out",
        "o",
        "--data.mix.benign",
        "5",
        "--x",
        "2",
        "--new",
        "1",
        "2",
    ]


def test_lines_are_compared_without_their_numbers() -> None:
    assert alike("pAUC   0.0465  -1e-4 to 2,000") == alike("pAUC 0.2 3 to 7")
    assert alike("pAUC 0.1") != alike("AUC 0.1")
