"""What the service refuses: raised where it is known, answered in one place (app.py, cli.py)."""


class Refused(Exception):
    """What was asked for cannot be done; the message says why and what would be right."""


class NotFound(Refused):
    """There is no such workflow, run or topic."""


class Ambiguous(Refused):
    """Several workflows would start."""


class TriggerDisabled(Refused):
    """The workflow's trigger is switched off."""


class PayloadDiffers(Refused):
    """A sender's key came again with another payload."""


class Conflict(Refused):
    """The state of the workflow or run does not allow it."""


class ConditionsNotMet(Refused):
    """The workflow's conditions do not hold, so nothing was started."""

    def __init__(self, workflow_ref, message):
        super().__init__(message)
        self.workflow_ref = workflow_ref


class Unusable(Exception):
    """A setting or the database cannot be used until the operator acts; the message says how."""


def one_line(error):
    """An error's words on one line: PostgreSQL takes several."""
    return " ".join(str(error).split())
