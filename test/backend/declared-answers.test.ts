// What the backend answers is what the gateway, which passes it on, declares in docs/openapi.json.
import { Validator } from '@cfworker/json-schema'
import { expect, test } from 'vitest'
import document from '../../docs/openapi.json' with { type: 'json' }
import { paths } from '../../gpu-backend/contract.ts'
import { startBackend } from './backend.ts'

const at = startBackend()

const chat = { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 8, temperature: 0 }
const text = { prompt: 'Hi', max_tokens: 8, temperature: 0 }

test.each([
  ['a conversation', paths.chat, chat],
  ['one with log-probabilities', paths.chat, { ...chat, logprobs: true, top_logprobs: 3 }],
  ['one that must be JSON', paths.chat, { ...chat, response_format: { type: 'json_object' } }],
  ['a text', paths.completions, text],
  ['texts, each twice', paths.completions, { ...text, prompt: ['Hi', 'Ho'], n: 2 }],
  ['the log-probabilities of a prompt', paths.completions, { ...text, max_tokens: 0, echo: true, logprobs: 2 }],
])('%s is answered as declared', async (_, path, body) => {
  const answer = await at.post(path, body)
  const value: unknown = await answer.json()
  const { schema } = document.paths[path as '/v1/completions'].post.responses[200].content['application/json']
  const { valid, errors } = new Validator({ ...schema, components: document.components } as never, '2020-12').validate(
    value,
  )
  expect([answer.status, valid, errors]).toEqual([200, true, []])
})
