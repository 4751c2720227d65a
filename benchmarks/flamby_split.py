"""Which patients FLamby's Fed-Heart-Disease tests on, as row numbers among the complete records.

    python -m venv /tmp/split && /tmp/split/bin/pip install scikit-learn==1.9.1
    cd benchmarks && /tmp/split/bin/python flamby_split.py DATA/heart-disease > flamby_split.json

It asks scikit-learn as FLamby does (`fed_heart_disease/dataset.py`): per hospital, a third for
test, shuffled with seed 43, stratified if each class has more than two patients. Only this program
needs scikit-learn; what it found is kept beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sklearn.model_selection import train_test_split  # type: ignore[import-not-found]  # its own venv


def main() -> None:
    """Print the row numbers of each hospital's test part."""
    found = {}
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        text = (Path(sys.argv[1]) / f"processed.{name}.data").read_text()
        rows = [row.split(",") for row in text.split()]
        complete = [row for row in rows if "?" not in row[:10] + row[13:]]
        disease = [float(row[13]) > 0 for row in complete]
        _, test = train_test_split(
            range(len(complete)),
            train_size=0.66,
            test_size=1.0 - 0.66,
            random_state=43,
            shuffle=True,
            stratify=disease if min(sum(disease), len(disease) - sum(disease)) > 2 else None,
        )
        found[name] = sorted(test)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
