// What the trainer asks of a tokenizer. The caller supplies it: the base's own, so that training sees what serving will.

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

export interface TrainingText {
  /** `special`: with the tokens that the tokenizer puts around a text. */
  encode(text: string, special: boolean): readonly number[]
  /** The conversation in the base's chat template; throws where there is none, or where it refuses. */
  render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string
  /** Ends a text; `undefined` where the base has no such token. */
  readonly endId: number | undefined
}
