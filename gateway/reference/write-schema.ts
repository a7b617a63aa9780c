// A schema in the words of a type, as HTML: `{ name: string, version: integer ≥ 1, tags?: [string] }`.
import type { Schema } from './openapi.ts'

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
export const escapeHtml = (text: string): string => text.replaceAll(/[&<>"']/g, (char) => ENTITIES[char] ?? '')

export const nameOf = (ref: string): string => ref.slice(ref.lastIndexOf('/') + 1)

/** What is beyond the type: bounds, a pattern, what holds where it is left out. */
function boundsOf(schema: Schema): string {
  const { minimum, exclusiveMinimum, maximum, minLength, maxLength, minItems, maxItems, pattern, format } = schema
  const bounds = [
    minimum === undefined ? [] : [`≥ ${minimum}`],
    exclusiveMinimum === undefined ? [] : [`> ${exclusiveMinimum}`],
    maximum === undefined ? [] : [`≤ ${maximum}`],
    minLength === undefined ? [] : [`${minLength} or more characters`],
    maxLength === undefined ? [] : [`at most ${maxLength} characters`],
    minItems === undefined ? [] : [`${minItems} or more`],
    maxItems === undefined ? [] : [`at most ${maxItems}`],
    format === undefined ? [] : [format],
    pattern === undefined ? [] : [`/${pattern}/`],
    schema.default === undefined ? [] : [`default ${JSON.stringify(schema.default)}`],
  ].flat()
  return bounds.length === 0 ? '' : ` <i>${escapeHtml(bounds.join(', '))}</i>`
}

function writeObject({ properties = {}, required = [], additionalProperties }: Schema, indent: string): string {
  const inner = `${indent}  `
  const lines = Object.entries(properties).map(
    ([name, property]) =>
      `${inner}${escapeHtml(name)}${required.includes(name) ? '' : '?'}: ${writeSchema(property, inner)}`,
  )
  if (typeof additionalProperties === 'object') {
    lines.push(`${inner}[name]: ${writeSchema(additionalProperties, inner)}`)
  }
  return lines.length === 0 ? '{}' : `{\n${lines.join('\n')}\n${indent}}`
}

function writeType(type: string, schema: Schema, indent: string): string {
  if (type === 'object') return writeObject(schema, indent)
  if (type !== 'array') return type
  const items = schema.prefixItems ?? (schema.items === undefined ? [] : [schema.items])
  return `[${items.map((item) => writeSchema(item, indent)).join(', ')}]`
}

export function writeSchema(schema: Schema, indent = ''): string {
  if (schema.$ref !== undefined) {
    const name = escapeHtml(nameOf(schema.$ref))
    return `<a href="#schema-${name}">${name}</a>`
  }
  const { anyOf, oneOf, allOf } = schema
  const several = anyOf ?? oneOf ?? allOf
  if (several !== undefined) {
    return several.map((one) => writeSchema(one, indent)).join(allOf === several ? ' &amp; ' : ' | ') + boundsOf(schema)
  }
  if (schema.enum !== undefined) {
    return schema.enum.map((value) => escapeHtml(JSON.stringify(value))).join(' | ') + boundsOf(schema)
  }
  const types = [schema.type ?? []].flat()
  if (types.length === 0) return 'anything'
  return types.map((type) => writeType(type, schema, indent)).join(' | ') + boundsOf(schema)
}
