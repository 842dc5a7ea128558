"""The class-weight engine: owns the class centres and evaluates any head over all classes."""
