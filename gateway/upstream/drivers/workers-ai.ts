// Workers AI over its REST API: the model is in the path, the adapter is `lora`, and the answer has a form of its own.
import * as z from 'zod'
import { type Call, type Driver, keepFields, maxTokensOf, NO_LOAD, type Translator } from '../driver.ts'

const SAME = ['temperature', 'top_p', 'seed', 'presence_penalty', 'frequency_penalty', 'stream', 'messages', 'prompt']

const Usage = z.object({ prompt_tokens: z.int().min(0), completion_tokens: z.int().min(0) }).optional()
/** A token of digits alone comes as a number in some of its streams. */
const Text = z.union([z.string(), z.number().transform(String)])
const Whole = z.object({ result: z.object({ response: Text, usage: Usage }) })
const Event = z.object({ response: Text.nullish(), usage: Usage })

export const workersAi: Driver = {
  endpoints: ['chat', 'completions'],
  adapterName: /^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$/,
  needsBaseModel: true,
  mixes: false,
  write: (call) => ({
    path: `/ai/run/${call.baseModel}`,
    body: {
      ...keepFields(call, SAME),
      max_tokens: maxTokensOf(call),
      // A text is continued as it stands; without this it would become a turn of a chat.
      ...(call.endpoint === 'completions' ? { raw: true } : {}),
      ...(call.parts[0] === undefined ? {} : { lora: call.parts[0].upstream }),
    },
  }),
  translate,
  load: null,
  alivePath: null,
  metricsPath: null,
  readLoad: () => NO_LOAD,
}

function translate(call: Call): Translator {
  let began = false
  let usage: z.infer<typeof Usage>
  const reason = () => ((usage?.completion_tokens ?? 0) >= maxTokensOf(call) ? 'length' : 'stop')
  const counted = () =>
    usage === undefined ? null : { ...usage, total_tokens: usage.prompt_tokens + usage.completion_tokens }
  const piece = (text: string) => {
    if (call.endpoint === 'completions') return { index: 0, text, finish_reason: null }
    const delta = began ? { content: text } : { role: 'assistant', content: text }
    return { index: 0, delta, finish_reason: null }
  }
  return {
    whole(value) {
      const { result } = Whole.parse(value)
      usage = result.usage
      const said =
        call.endpoint === 'completions'
          ? { text: result.response }
          : { message: { role: 'assistant', content: result.response } }
      return { choices: [{ index: 0, ...said, finish_reason: reason() }], usage: counted() }
    },
    chunk(value) {
      const { response, usage: now } = Event.parse(value)
      usage = now ?? usage
      if (response == null || response === '') return []
      const choice = piece(response)
      began = true
      return [{ choices: [choice] }]
    },
    end() {
      const last = { ...piece(''), finish_reason: reason() }
      const chunk = { choices: [last] }
      return usage === undefined ? [chunk] : [chunk, { choices: [], usage: counted() }]
    },
  }
}
