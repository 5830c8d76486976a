"""Surveys: questions, groups of people and how each group answered."""

from opinion_sae.survey.core import DroppedCell, Question, Survey, survey_hash
from opinion_sae.survey.load import load_survey, shipped_surveys
from opinion_sae.survey.near_duplicates import question_clusters, question_folds

__all__ = [
    "DroppedCell",
    "Question",
    "Survey",
    "load_survey",
    "question_clusters",
    "question_folds",
    "shipped_surveys",
    "survey_hash",
]
