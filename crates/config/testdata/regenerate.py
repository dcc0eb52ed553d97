#!/usr/bin/env python3
"""Writes what PyYAML makes of the files in configs/ beside each,.

Dates are kept as texts, as this crate keeps them. Run by hand after a change of the files.
"""
import glob, json, os, yaml

class Loader(yaml.SafeLoader):
    """safe_load, dates as texts."""

Loader.add_constructor('tag:yaml.org,2002:timestamp', yaml.SafeLoader.construct_yaml_str)
here = os.path.dirname(os.path.abspath(__file__))
for path in sorted(glob.glob(here + '/configs/*.yml')):
    value = yaml.load(open(path), Loader=Loader)
    with open(path[:-4] + '.json', 'w') as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write('\n')
for path in sorted(glob.glob(here + '/configs/refused/*.yml')):
    try:
        value = yaml.load(open(path), Loader=Loader)
        assert not isinstance(value, dict), path
    except yaml.YAMLError:
        pass
