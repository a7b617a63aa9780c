// Answers as OpenAI writes them, for both endpoints, whole and in chunks.
import { randomUUID } from 'node:crypto'

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
}

export type Finish = 'stop' | 'length'

/** One answer in the making: everything that its chunks have in common. */
export interface Shape {
  readonly whole: (text: string, finish: Finish, usage: Usage) => object
  /** What a stream begins with, before any text; undefined for none. */
  readonly opening: object | undefined
  readonly chunk: (text: string, finish: Finish | null) => object
  /** The chunk after the last, which carries the usage alone. */
  readonly closing: object
}

export function usageOf(prompt: number, completion: number): Usage {
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

export function completionShape(model: string, created: number): Shape {
  const head = { id: `cmpl-${randomUUID()}`, object: 'text_completion', created, model }
  const choice = (text: string, finish_reason: Finish | null): object => ({
    ...head,
    choices: [{ index: 0, text, logprobs: null, finish_reason }],
  })
  return {
    whole: (text, finish, usage) => ({ ...choice(text, finish), usage }),
    opening: undefined,
    chunk: choice,
    closing: { ...head, choices: [] },
  }
}

export function chatShape(model: string, created: number): Shape {
  const head = { id: `chatcmpl-${randomUUID()}`, created, model }
  const chunkHead = { ...head, object: 'chat.completion.chunk' }
  const chunk = (delta: object, finish_reason: Finish | null): object => ({
    ...chunkHead,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
  })
  return {
    whole: (content, finish_reason, usage) => ({
      ...head,
      object: 'chat.completion',
      choices: [{ index: 0, message: { role: 'assistant', content, refusal: null }, logprobs: null, finish_reason }],
      usage,
    }),
    opening: chunk({ role: 'assistant', content: '' }, null),
    chunk: (content, finish) => chunk(content === '' ? {} : { content }, finish),
    closing: { ...chunkHead, choices: [] },
  }
}
