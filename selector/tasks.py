"""Task names of the Hub, and the model classes that serve them."""

from __future__ import annotations

from collections.abc import Mapping

# The Hub's task names, and the classes of transformers that serve them, the likeliest first.
TASKS: Mapping[str, tuple[str, ...]] = {
    "feature-extraction": ("AutoModel",),
    "sentence-similarity": ("AutoModel",),
    "image-feature-extraction": ("AutoModel",),
    "fill-mask": ("AutoModelForMaskedLM",),
    "text-generation": ("AutoModelForCausalLM",),
    "text2text-generation": ("AutoModelForSeq2SeqLM",),
    "summarization": ("AutoModelForSeq2SeqLM",),
    "translation": ("AutoModelForSeq2SeqLM",),
    "text-classification": ("AutoModelForSequenceClassification",),
    "zero-shot-classification": ("AutoModelForSequenceClassification",),
    "token-classification": ("AutoModelForTokenClassification",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "multiple-choice": ("AutoModelForMultipleChoice",),
    "next-sentence-prediction": ("AutoModelForNextSentencePrediction",),
    "table-question-answering": ("AutoModelForTableQuestionAnswering",),
    "document-question-answering": ("AutoModelForDocumentQuestionAnswering",),
    "visual-question-answering": (
        "AutoModelForVisualQuestionAnswering",
        "AutoModelForImageTextToText",
    ),
    "image-text-to-text": ("AutoModelForImageTextToText",),
    "image-to-text": ("AutoModelForImageTextToText",),
    "image-classification": ("AutoModelForImageClassification",),
    "zero-shot-image-classification": ("AutoModelForZeroShotImageClassification",),
    "image-segmentation": (
        "AutoModelForImageSegmentation",
        "AutoModelForSemanticSegmentation",
        "AutoModelForInstanceSegmentation",
        "AutoModelForUniversalSegmentation",
    ),
    "semantic-segmentation": ("AutoModelForSemanticSegmentation",),
    "instance-segmentation": ("AutoModelForInstanceSegmentation",),
    "universal-segmentation": ("AutoModelForUniversalSegmentation",),
    "object-detection": ("AutoModelForObjectDetection",),
    "zero-shot-object-detection": ("AutoModelForZeroShotObjectDetection",),
    "depth-estimation": ("AutoModelForDepthEstimation",),
    "mask-generation": ("AutoModelForMaskGeneration",),
    "image-to-image": ("AutoModelForImageToImage",),
    "masked-image-modeling": ("AutoModelForMaskedImageModeling",),
    "keypoint-detection": ("AutoModelForKeypointDetection",),
    "keypoint-matching": ("AutoModelForKeypointMatching",),
    "video-classification": ("AutoModelForVideoClassification",),
    "audio-classification": ("AutoModelForAudioClassification",),
    "zero-shot-audio-classification": ("AutoModel",),
    "audio-frame-classification": ("AutoModelForAudioFrameClassification",),
    "audio-xvector": ("AutoModelForAudioXVector",),
    "automatic-speech-recognition": ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC"),
    "text-to-audio": ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"),
    "text-to-speech": ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"),
    "time-series-forecasting": ("AutoModelForTimeSeriesPrediction",),
}
