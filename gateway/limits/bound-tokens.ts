// How many tokens a request can take at most: what is held of a limit until the backend has counted.
import {
  type ChatCompletionRequest,
  type CompletionRequest,
  type EmbeddingRequest,
  promptsOf,
} from '../../gpu-backend/contract.ts'
import type { Tokens } from '../usage/read-usage.ts'

/** What a chat template puts around each message, and in front of all: markers, roles, a system text of its own. */
const TOKENS_A_MESSAGE = 16
const TOKENS_A_PROMPT = 64
/** A template may print the tools with an indent. */
const PRINTED_TOOLS = 3

const encoder = new TextEncoder()
const bytesOf = (text: string): number => encoder.encode(text).length

type Request = CompletionRequest | ChatCompletionRequest | EmbeddingRequest

/** A token of a text stands for at least one byte of it, whatever the tokenizer. */
export function boundPrompt(request: Request): number {
  if ('messages' in request) {
    const { messages, tools } = request
    const printed = bytesOf(JSON.stringify(messages)) + PRINTED_TOOLS * bytesOf(JSON.stringify(tools ?? ''))
    return TOKENS_A_PROMPT + TOKENS_A_MESSAGE * messages.length + printed
  }
  const all = promptsOf('prompt' in request ? request.prompt : request.input)
  return all.reduce((sum, one) => sum + TOKENS_A_PROMPT + (typeof one === 'string' ? bytesOf(one) : one.length), 0)
}

/** `maxTokens`: the tenant's for all answers of a request, which the capability carries and the backend cuts to. */
export function boundTokens(request: Request, maxTokens: number): Tokens {
  const promptTokens = boundPrompt(request)
  if ('input' in request) return { promptTokens, completionTokens: 0 }
  const asked = ('max_completion_tokens' in request ? request.max_completion_tokens : undefined) ?? request.max_tokens
  const answers = (request.n ?? 1) * ('prompt' in request ? promptsOf(request.prompt).length : 1)
  return { promptTokens, completionTokens: Math.min((asked ?? maxTokens) * answers, maxTokens) }
}
