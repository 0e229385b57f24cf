"""The page of the prior is true: it has every setting, and its commands name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from configs import prior

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "prior.md").read_text()


def test_every_setting_has_its_place():
    ours = set(prior.get_config()) - set(prior.training.get_config())
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, flags=re.MULTILINE)
    table = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert ours - {"system"} <= table
    assert set(prior.STAGES) <= table


def test_commands_name_settings_that_there_are():
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
    stages = []
    for word in shlex.split(blocks.replace("\\\n", " ")):
        if match := re.match(r"--config\.(\w+)=", word):
            assert match[1] in prior.get_config(), word
        elif match := re.match(r"--config=configs/prior\.py:(.*)", word):
            stages.append(prior.get_config(match[1]).stage)
    assert stages == list(prior.STAGES)
