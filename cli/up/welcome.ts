// What `sidepath up` prints when it is ready: who may use what, and a line to paste for each.
import { table } from '../table.ts'
import type { Demo } from './seed.ts'

const QUESTION =
  'Hi, The agreement states that fees are due within thirty days. It began on 31 Mar 2029. ' +
  'The page shows an error. Everything has stopped.'

export function welcome(demo: Demo, file: string): string {
  const rows = demo.tenants.map(({ name, who, models }) => [name, who, models.join(', ')])
  const lines = demo.tenants.map(({ name, key, models }) => `# ${name}\n${curl(demo.gatewayUrl, key, models[0] ?? '')}`)
  return `
${table(['tenant', 'who', 'may use'], rows)}

The same question, under each key (a model that is not in the key's line does not exist for it):

${lines.join('\n\n')}

ready on ${demo.gatewayUrl} · keys in ${file} · Ctrl-C stops everything
`
}

function curl(url: string, key: string, model: string): string {
  const body = JSON.stringify({ model, temperature: 0, messages: [{ role: 'user', content: QUESTION }] })
  return `curl -s ${url}/v1/chat/completions -H 'authorization: Bearer ${key}' -H 'content-type: application/json' -d '${body}'`
}
