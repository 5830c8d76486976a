"""Surveys: questions, groups of people and how each group answered."""

from opinion_sae.survey.core import DroppedCell, Question, Survey, survey_hash
from opinion_sae.survey.load import load_survey, shipped_surveys

__all__ = ["DroppedCell", "Question", "Survey", "load_survey", "shipped_surveys", "survey_hash"]
