// A conversation as callers send it → as chat templates know it.
import type { ChatMessage } from '../contract.ts'
import { BackendError } from '../errors.ts'
import type { TemplateMessage } from '../text/tokenizer.ts'

/** Throws `request_invalid`. */
export function templateMessages(messages: readonly ChatMessage[]): TemplateMessage[] {
  return messages.map((message, at) => {
    const content = textOf(message.content)
    switch (message.role) {
      // OpenAI's newer name, which templates do not know.
      case 'developer':
        return { role: 'system', content }
      case 'tool':
        return { role: 'tool', content, tool_call_id: message.tool_call_id }
      case 'assistant':
        if (message.tool_calls === undefined) return { role: 'assistant', content }
        return { role: 'assistant', content, tool_calls: message.tool_calls.map((call) => withObject(call, at)) }
      default:
        return { role: message.role, content }
    }
  })
}

function textOf(content: ChatMessage['content']): string {
  return typeof content === 'string' ? content : (content ?? []).map(({ text }) => text).join('')
}

type Call = NonNullable<Extract<ChatMessage, { role: 'assistant' }>['tool_calls']>[number]

/** Templates write the arguments as JSON themselves; of a string they would make a string within a string. */
function withObject({ id, type, function: called }: Call, message: number): object {
  let args: unknown
  try {
    args = JSON.parse(called.arguments)
  } catch {
    // Refused below, as is JSON that is no object.
  }
  if (typeof args !== 'object' || args === null || Array.isArray(args)) {
    const field = `messages.${message}.tool_calls`
    throw new BackendError('request_invalid', `"${field}": the arguments of "${called.name}" are no JSON object`, field)
  }
  return { id, type, function: { name: called.name, arguments: args } }
}
