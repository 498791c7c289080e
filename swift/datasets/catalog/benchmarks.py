"""What models are measured on: questions with one right answer, not to be trained on."""

from __future__ import annotations

from swift.datasets import DATASETS, DatasetRecord

CEVAL = tuple(
    """
    accountant advanced_mathematics art_studies basic_medicine business_administration chinese_language_and_literature
    civil_servant clinical_medicine college_chemistry college_economics college_physics college_programming
    computer_architecture computer_network discrete_mathematics education_science electrical_engineer
    environmental_impact_assessment_engineer fire_engineer high_school_biology high_school_chemistry
    high_school_chinese high_school_geography high_school_history high_school_mathematics high_school_physics
    high_school_politics ideological_and_moral_cultivation law legal_professional logic mao_zedong_thought marxism
    metrology_engineer middle_school_biology middle_school_chemistry middle_school_geography middle_school_history
    middle_school_mathematics middle_school_physics middle_school_politics modern_chinese_history operating_system
    physician plant_protection probability_and_statistics professional_tour_guide sports_science tax_accountant
    teacher_qualification urban_and_rural_planner veterinary_medicine
    """.split()
)

DATASETS.add(
    DatasetRecord(
        "gsm8k", "modelscope/gsm8k", "openai/gsm8k", subsets=("main",), split=("test",),
        tags=("benchmark", "math", "en"), help="Sums in words, with their solutions.",
    ),
    DatasetRecord(
        "arc", "modelscope/ai2_arc", "allenai/ai2_arc", subsets=("ARC-Challenge",), split=("test",),
        tags=("benchmark", "multiple-choice", "en"), help="Science questions of schools, the hard ones.",
    ),
    DatasetRecord(
        "ceval", "modelscope/ceval-exam", "ceval/ceval-exam", subsets=CEVAL, split=("val",),
        tags=("benchmark", "multiple-choice", "zh"), help="Exam questions of 52 subjects.",
    ),
)  # fmt: skip
