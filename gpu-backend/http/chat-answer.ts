// Answers of `/v1/chat/completions`, as OpenAI writes them.
import { randomUUID } from 'node:crypto'
import type { TokenLogprob } from '../engine/logprobs.ts'
import type { Piece } from '../engine/request.ts'
import type { Answer, Choice } from './answer.ts'
import type { TokenTexts } from './token-texts.ts'
import { type Read, type ToolCall, ToolCalls } from './tool-calls.ts'

export interface ChatOptions {
  readonly model: string
  readonly created: number
  readonly logprobs: boolean
  readonly tokenTexts: TokenTexts
  /** Names of the functions that an answer may call; undefined: what looks like a call is text. */
  readonly tools: readonly string[] | undefined
}

export function chatAnswer(count: number, options: ChatOptions): Answer {
  const { model, created } = options
  const head = { id: `chatcmpl-${randomUUID()}`, created, model }
  return {
    head: { ...head, object: 'chat.completion' },
    chunkHead: { ...head, object: 'chat.completion.chunk' },
    choices: Array.from({ length: count }, (_, index) => chatChoice(index, options)),
  }
}

function chatChoice(index: number, { logprobs, tokenTexts, tools }: ChatOptions): Choice {
  const reader = tools && new ToolCalls(tools)
  const calls: ToolCall[] = []
  const scores: object[] = []
  let content = ''
  let finish: string | null = null

  function read({ text, finish: end }: Piece): Read & { finish: string | null } {
    if (reader === undefined) return { text, calls: [], finish: end ?? null }
    const found = reader.push(text)
    const rest: Read = end === undefined ? { text: '', calls: [] } : reader.end()
    const now = [...found.calls, ...rest.calls]
    calls.push(...now)
    const called = end === 'stop' && calls.length > 0
    return { text: found.text + rest.text, calls: now, finish: called ? 'tool_calls' : (end ?? null) }
  }

  function scoreOf({ id, logprob, top }: TokenLogprob): object {
    const top_logprobs = top.map(([other, value]) => ({ ...tokenTexts(other), logprob: value }))
    return { ...tokenTexts(id), logprob, top_logprobs }
  }

  const scoresOf = (piece: Piece): object[] => (logprobs ? (piece.logprobs ?? []).map(scoreOf) : [])
  const shown = (content: readonly object[]): object | null => (logprobs ? { content, refusal: null } : null)

  return {
    opening: { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    chunk(piece) {
      const before = calls.length
      const { text, calls: now, finish: finish_reason } = read(piece)
      const scored = scoresOf(piece)
      const silent = text === '' && now.length === 0 && scored.length === 0 && finish_reason === null
      const tool_calls = now.map((call, at) => ({ index: before + at, ...call }))
      const delta = { ...(text === '' ? {} : { content: text }), ...(now.length === 0 ? {} : { tool_calls }) }
      return { choice: { index, delta, logprobs: scored.length === 0 ? null : shown(scored), finish_reason }, silent }
    },
    add(piece) {
      const { text, finish: end } = read(piece)
      content += text
      scores.push(...scoresOf(piece))
      finish = end ?? finish
    },
    whole() {
      // Between and around calls templates put line ends, which nobody means to say.
      const said = calls.length > 0 && content.trim() === '' ? null : content
      const message = {
        role: 'assistant',
        content: said,
        refusal: null,
        ...(calls.length === 0 ? {} : { tool_calls: calls }),
      }
      return { index, message, logprobs: shown(scores), finish_reason: finish }
    },
  }
}
