// Pages in Chromium: on a phone and on a desktop, by day and by night, with a keyboard.
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { chromium } from 'playwright-core'
import { audit } from './audit.mjs'
import { root } from './relay.mjs'

const WIDTHS = [360, 390, 1280]
export const SCHEMES = ['light', 'dark']
/** Pictures of the pages are left here. */
const pictures = join(root, 'target', 'pages')

export function launch() {
  mkdirSync(pictures, { recursive: true })
  return chromium.launch({
    executablePath: join(root, 'target', 'browser', 'chromium'),
    // It shows nothing but our own pages; what it would ask its maker is not needed.
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
  })
}

/**
 * Opens a page of the server at `http` in a context of its own; `page.faults` is what it complains about or asks of others.
 * `prepare` gets the page before it is loaded.
 */
export async function open(t, browser, http, path, { width = 390, scheme = 'light', prepare, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme: scheme, ...options })
  t.after(() => context.close())
  const page = await context.newPage()
  page.faults = []
  await context.route('**', route => {
    const url = route.request().url()
    if (url.startsWith(`${http}/`)) return route.continue()
    page.faults.push(`asks for ${url}`)
    return route.abort()
  })
  page.on('console', message => page.faults.push(`console: ${message.text()}`))
  page.on('pageerror', error => page.faults.push(`error: ${error}`))
  page.on('dialog', dialog => page.faults.push(`dialog: ${dialog.message()}`))
  await prepare?.(page)
  const response = await page.goto(http + path)
  assert.equal(response.status(), 200)
  assert.match(response.headers()['content-security-policy'], /default-src 'none'/)
  return page
}

/** Looks at a page in all widths; the pictures are called `name`. */
export async function looksWell(page, name, scheme) {
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 800 })
    const faults = await page.evaluate(audit, { isDark: scheme === 'dark' })
    await page.screenshot({ path: join(pictures, `${name}-${width}-${scheme}.png`), fullPage: true })
    assert.deepEqual(faults, [], `${width} pixels wide`)
  }
  assert.deepEqual(page.faults, [])
}

/** The Tab key reaches every link and field that is shown and enabled, one after the other, and shows where it is. */
export async function tabs(page, selector = 'a[href], input, select, textarea, button') {
  const count = await page.evaluate(
    selector => [...document.querySelectorAll(selector)].filter(each => each.checkVisibility() && !each.disabled).length,
    selector,
  )
  assert.ok(count > 0)
  // From the top, wherever the focus has been.
  await page.evaluate(({ body }) => {
    body.tabIndex = -1
    body.focus()
    body.removeAttribute('tabindex')
  }, await page.evaluateHandle('document'))
  for (let n = 0; n < count; n++) {
    await page.keyboard.press('Tab')
    const focus = await page.evaluate(selector => {
      const element = document.activeElement
      // Of a transparent field what it lies in shows it.
      const isShown = [element, element.parentElement].some(each =>
        [null, '::after'].some(part => {
          const { outlineStyle, outlineWidth } = getComputedStyle(each, part)
          return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2
        }),
      )
      const shown = [...document.querySelectorAll(selector)].filter(each => each.checkVisibility() && !each.disabled)
      return { at: shown.indexOf(element), isShown }
    }, selector)
    assert.deepEqual(focus, { at: n, isShown: true })
  }
}
