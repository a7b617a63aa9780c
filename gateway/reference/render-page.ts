// An OpenAPI document as one page of HTML that needs no script, no image and no other address.
import type { Content, OpenApi, Operation } from './openapi.ts'
import { escapeHtml, writeSchema } from './write-schema.ts'

export const STYLE = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 0 auto; max-width: 62rem; padding: 1rem }
code, pre { font: 13px/1.5 ui-monospace, monospace }
pre { overflow-x: auto; margin: .3rem 0 .3rem 1rem }
summary { cursor: pointer; padding: .2rem 0 }
summary b { display: inline-block; min-width: 4rem; text-transform: uppercase }
details details { margin-left: 1rem }
i { opacity: .7; font-style: normal }
`

const writeContent = (content: Content | undefined): string =>
  Object.entries(content ?? {})
    .map(
      ([type, { schema }]) => `<p><code>${escapeHtml(type)}</code></p><pre>${schema ? writeSchema(schema) : ''}</pre>`,
    )
    .join('')

function writeOperation(method: string, path: string, operation: Operation): string {
  const { summary = '', operationId = '', parameters = [], requestBody, responses } = operation
  const given = parameters.map(
    ({ name, in: where, required, schema }) =>
      `${escapeHtml(name)}${required ? '' : '?'}: ${schema ? writeSchema(schema) : ''} <i>${escapeHtml(where)}</i>`,
  )
  const answers = Object.entries(responses).map(
    ([status, { description, content }]) =>
      `<details><summary>${escapeHtml(status)} ${escapeHtml(description)}</summary>${writeContent(content)}</details>`,
  )
  return [
    `<details id="${escapeHtml(operationId)}"><summary><b>${escapeHtml(method)}</b> <code>${escapeHtml(path)}</code> ${escapeHtml(summary)}</summary>`,
    given.length === 0 ? '' : `<pre>${given.join('\n')}</pre>`,
    requestBody === undefined ? '' : writeContent(requestBody.content),
    ...answers,
    '</details>',
  ].join('\n')
}

/** Operations by their first tag, in the order of the document. */
function writeOperations({ paths }: OpenApi): string {
  const all = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
  )
  const byTag = Map.groupBy(all, ({ operation }) => operation.tags?.[0] ?? '')
  return [...byTag]
    .map(([tag, found]) => {
      const written = found.map(({ method, path, operation }) => writeOperation(method, path, operation))
      return `<h2>${escapeHtml(tag)}</h2>\n${written.join('\n')}`
    })
    .join('\n')
}

const writeSchemas = ({ components }: OpenApi): string =>
  Object.entries(components?.schemas ?? {})
    .map(
      ([name, schema]) =>
        `<h3 id="schema-${escapeHtml(name)}">${escapeHtml(name)}</h3><pre>${writeSchema(schema)}</pre>`,
    )
    .join('\n')

export function renderPage(document: OpenApi): string {
  const { title, version, description = '' } = document.info
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>${escapeHtml(title)} ${escapeHtml(version)}</title><meta name="viewport" content="width=device-width"><style>${STYLE}</style></head>
<body>
<h1>${escapeHtml(title)} <i>${escapeHtml(version)}</i></h1>
<p>${escapeHtml(description)}</p>
${writeOperations(document)}
<h2>Schemas</h2>
${writeSchemas(document)}
</body>
</html>
`
}
