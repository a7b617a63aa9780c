// How many tokens a request can take at most: what is held of a limit until the backend has counted.
import type { ChatCompletionRequest, CompletionRequest } from '../../gpu-backend/contract.ts'
import type { Tokens } from '../usage/read-usage.ts'

/** What a chat template puts around each message, and in front of all: markers, roles, a system text of its own. */
const TOKENS_A_MESSAGE = 16
const TOKENS_A_PROMPT = 64

const encoder = new TextEncoder()
const bytesOf = (text: string): number => encoder.encode(text).length

/** A token of a text stands for at least one byte of it, whatever the tokenizer. */
export function boundPrompt(request: CompletionRequest | ChatCompletionRequest): number {
  if ('prompt' in request) return TOKENS_A_PROMPT + bytesOf(request.prompt)
  return request.messages.reduce((sum, { content }) => sum + TOKENS_A_MESSAGE + bytesOf(content), TOKENS_A_PROMPT)
}

/** `maxTokens`: the tenant's, which the capability carries and the backend cuts to. */
export function boundTokens(request: CompletionRequest | ChatCompletionRequest, maxTokens: number): Tokens {
  const asked = ('max_completion_tokens' in request ? request.max_completion_tokens : undefined) ?? request.max_tokens
  return { promptTokens: boundPrompt(request), completionTokens: Math.min(asked ?? maxTokens, maxTokens) }
}
