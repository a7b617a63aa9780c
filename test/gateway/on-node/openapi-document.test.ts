// The OpenAPI documents before a validator that is not ours.
import { Validator } from '@seriousme/openapi-schema-validator'
import { expect, it } from 'vitest'
import publicDocument from '../../../docs/openapi.json' with { type: 'json' }
import adminDocument from '../../../docs/openapi-admin.json' with { type: 'json' }

const check = async (document: Record<string, unknown>) => {
  const validator = new Validator()
  const { valid, errors } = await validator.validate(structuredClone(document))
  return { valid, errors, version: validator.version }
}

it.each([
  ['public', publicDocument],
  ['admin', adminDocument],
])('the %s one is OpenAPI 3.1, by the schema of the specification', async (_, document) => {
  expect(await check(document)).toEqual({ valid: true, errors: undefined, version: '3.1' })
})

it('the validator refuses a document with a wrong field', async () => {
  expect((await check({ ...publicDocument, openapi: '3.1.0', info: {} })).valid).toBe(false)
})

it.each([
  ['public', publicDocument],
  ['admin', adminDocument],
])('in the %s one operation ids are unique and every reference leads somewhere', (_, document) => {
  const ids = [...JSON.stringify(document).matchAll(/"operationId":"(\w+)"/g)].map(([, id]) => id)
  expect(new Set(ids).size).toBe(ids.length)
  const names = new Set(Object.keys(document.components.schemas))
  const refs = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)]
  expect(refs.length).toBeGreaterThan(20)
  expect(refs.map(([, name = '']) => name).filter((name) => !names.has(name))).toEqual([])
})
