from frtrain.auxiliary import AUXILIARIES
from frtrain.commands.composition import choices, group_defaults


def test_every_auxiliary_has_a_configuration_that_builds():
    assert choices("auxiliary") == AUXILIARIES.names()
    for name in AUXILIARIES.names():
        auxiliary = AUXILIARIES.build(group_defaults("auxiliary", name))
        assert isinstance(auxiliary, AUXILIARIES.get(name).factory)
