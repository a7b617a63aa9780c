// What a training graph calls its inputs and outputs beyond those of every graph.

export const trainingNames = {
  /** int64 [batch, tokens]: tokens see each other where these are equal; 0 is padding. */
  segments: 'segments',
  /** int64 [targets, 2]: row and token of the hidden states that predict something. */
  targetPlaces: 'target_places',
  /** int64 [targets] */
  targets: 'targets',
  /** float32 [targets]: what each prediction counts; 0 for padding. */
  targetWeights: 'target_weights',
  /** float32, without axes: Σ weight · −ln p(target) */
  loss: 'loss',
  /** float32 [noise]: 0 or 1/(1 − p), a window of which is each module's dropout. */
  dropoutNoise: 'dropout_noise',
  /** int64 [linears]: where each module's window begins. */
  dropoutStarts: 'dropout_starts',
  loraA: (module: string) => `${module}.lora_A`,
  loraB: (module: string) => `${module}.lora_B`,
  /** DoRA: float32 [out] */
  magnitude: (module: string) => `${module}.lora_magnitude_vector`,
  /** DoRA: ‖W + s·B·A‖ of each output. */
  norm: (module: string) => `${module}.norm`,
  /** PiSSA: the factors that training began with. */
  startA: (module: string) => `${module}.lora_A.start`,
  startB: (module: string) => `${module}.lora_B.start`,
  gradient: (value: string) => `gradient.${value}`,
} as const
