"""Optuna's tables of trials, under short names, for what reads and writes them."""

from __future__ import annotations

from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)

TRIALS, PARAMS = TrialModel.__table__, TrialParamModel.__table__
VALUES, RESULTS = TrialIntermediateValueModel.__table__, TrialValueModel.__table__
NOTES, SYSTEMS = TrialUserAttributeModel.__table__, TrialSystemAttributeModel.__table__
