"""A small procedural world with exact ground truth: solids that stand in a few places."""

from input_pipeline.scenes.classes import CLASSES as CLASSES
from input_pipeline.scenes.classes import label_colours as label_colours
from input_pipeline.scenes.scene import Scene as Scene
from input_pipeline.scenes.scene import SceneObject as SceneObject
from input_pipeline.scenes.source import SCENE_FIELDS as SCENE_FIELDS
from input_pipeline.scenes.source import Scenes as Scenes
from input_pipeline.scenes.source import foreground_image as foreground_image
