"""The model registry: `--model NAME` is the class <Name>Model in models/NAME_model.py.

Dropping a file in adds a model; there is no list to edit. models/template_model.py is an example.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from models.base_model import BaseModel
from util.registry import Registry

_registry = Registry(__name__, "model", BaseModel, "--model")

names = _registry.names
find_model_using_name: Callable[[str], type[BaseModel]] = _registry.find


def get_option_setter(model_name: str) -> Callable[[ArgumentParser, bool], ArgumentParser]:
    """The model's modify_commandline_options."""
    return find_model_using_name(model_name).modify_commandline_options


def create_model(opt: Namespace) -> BaseModel:
    """Build the model that the options name; `setup` makes it ready."""
    return find_model_using_name(opt.model)(opt)
