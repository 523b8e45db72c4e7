/* The extension module dm.fast._fast. */
#include "fast.h"

#include <structmember.h> /* PyMemberDef before Python 3.12 */

#ifndef DM_FAST_DIGEST
#define DM_FAST_DIGEST "unknown"
#endif

Py_ssize_t slot_of(PyTypeObject *cls, PyObject *name)
{
    PyObject *found = PyObject_GetAttr((PyObject *)cls, name);
    Py_ssize_t offset = -1;

    if (!found) {
        return -1;
    }
    if (Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        offset = ((PyMemberDescrObject *)found)->d_member->offset;
    } else {
        PyErr_Format(PyExc_TypeError, "%s.%U is no slot", cls->tp_name, name);
    }
    Py_DECREF(found);
    return offset;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dm.fast._fast",
    .m_doc = "The hot part of an exchange; see dm.fast.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    PyType_Spec *specs[] = {&codec_spec, &groups_spec, &link_spec};
    PyObject *module = PyModule_Create(&definition);

    if (!module || PyModule_AddStringConstant(module, "DIGEST", DM_FAST_DIGEST) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        PyObject *type = PyType_FromSpec(specs[i]);

        if (!type || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            Py_DECREF(module);
            return NULL;
        }
        Py_DECREF(type);
    }
    return module;
}
